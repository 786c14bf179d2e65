#include "ops/quant.h"

#include "addon/op.h"

namespace kvasir::addon {

void registerQuant(Napi::Env env, Napi::Object exports) {
  op<ops::repackInt4>(env, exports, "repackInt4");
  op<ops::unpackZeros>(env, exports, "unpackZeros");
  op<ops::repackInt8>(env, exports, "repackInt8");
  op<ops::packInt4>(env, exports, "packInt4");
  op<ops::packInt8>(env, exports, "packInt8");
  op<ops::packFp8>(env, exports, "packFp8");
  op<ops::linearInt4>(env, exports, "linearInt4");
  op<ops::linearInt8>(env, exports, "linearInt8");
  op<ops::linearFp8>(env, exports, "linearFp8");
  op<ops::quantizeFp8>(env, exports, "quantizeFp8");
}

}  // namespace kvasir::addon
