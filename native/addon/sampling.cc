#include "ops/sampling.h"

#include "addon/op.h"

namespace kvasir::addon {

void registerSampling(Napi::Env env, Napi::Object exports) {
  op<ops::samplingCountPrompt>(env, exports, "samplingCountPrompt");
  op<ops::samplingCountOutput>(env, exports, "samplingCountOutput");
  op<ops::samplingPenalties>(env, exports, "samplingPenalties");
  op<ops::samplingBias>(env, exports, "samplingBias");
  op<ops::samplingMask>(env, exports, "samplingMask");
  op<ops::samplingLogprobs>(env, exports, "samplingLogprobs");
  op<ops::sample>(env, exports, "sample");
  op<ops::samplingTop>(env, exports, "samplingTop");
  op<ops::sampleTop>(env, exports, "sampleTop");
}

}  // namespace kvasir::addon
