import { loadBinding } from '../../lib/binding/load';
import type { DeviceType, DType } from '../../lib/config/vllm';
import { Device, liveStorages } from '../../lib/tensor/device';
import { DTYPE_BYTES, viewOf } from '../../lib/tensor/dtype';
import { inScope, TemporaryScope, tensorScope } from '../../lib/tensor/scope';
import type { Tensor } from '../../lib/tensor/tensor';

export type FloatType = 'float32' | 'float16' | 'bfloat16';

/** Which backend the op tests check: KVASIR_TEST_DEVICE=cuda runs the same case tables on a GPU. */
export const TEST_DEVICE: DeviceType = process.env.KVASIR_TEST_DEVICE === 'cuda' ? 'cuda' : 'cpu';

/** `it`, or `it.skip` with the name visible, for what concerns one backend only. */
export const itOn = (device: DeviceType): jest.It => (TEST_DEVICE === device ? it : (it.skip as jest.It));

/** Relative L2 error allowed against a float64 reference of the same (rounded) inputs. */
export const TOLERANCE: Record<FloatType, number> = { float32: 1e-5, float16: 4e-3, bfloat16: 4e-3 };

/** Looking a global up takes longer in a test than this multiplication. */
const { imul } = Math;

/** Deterministic numbers, roughly normal. */
export function randomValues(count: number, seed: number, scale = 1): Float64Array {
  let state = (seed * 2654435761 + 12345) >>> 0;
  const next = (): number => {
    state = (imul(state, 1664525) + 1013904223) >>> 0;
    return state / 4294967296;
  };
  const values = new Float64Array(count);
  for (let i = 0; i < count; i++) values[i] = (next() + next() + next() + next() - 2) * 1.7 * scale;
  return values;
}

const floatBits = new Float32Array(1);
const intBits = new Uint32Array(floatBits.buffer);

export function toBf16Bits(value: number): number {
  floatBits[0] = value;
  const bits = intBits[0]!;
  if ((bits & 0x7fffffff) > 0x7f800000) return 0x7fc0;
  return ((bits + 0x7fff + ((bits >>> 16) & 1)) >>> 16) & 0xffff;
}

export function fromBf16Bits(bits: number): number {
  intBits[0] = bits << 16;
  return floatBits[0]!;
}

export function toF16Bits(value: number): number {
  floatBits[0] = value;
  const bits = intBits[0]!;
  const sign = (bits >>> 16) & 0x8000;
  const magnitude = bits & 0x7fffffff;
  if (magnitude > 0x7f800000) return sign | 0x7e00;
  if (magnitude >= 0x477ff000) return sign | 0x7c00;
  if (magnitude < 0x38800000) return sign | roundEven(Math.abs(floatBits[0]!) * 2 ** 24);
  return sign | ((magnitude - 0x38000000 + 0xfff + ((magnitude >>> 13) & 1)) >>> 13);
}

export function fromF16Bits(bits: number): number {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 31;
  const mantissa = bits & 1023;
  if (exponent === 31) return mantissa ? NaN : sign * Infinity;
  return exponent === 0 ? sign * mantissa * 2 ** -24 : sign * (1 + mantissa / 1024) * 2 ** (exponent - 15);
}

export function fromE4M3Bits(bits: number): number {
  const [sign, exponent, mantissa] = [bits & 0x80 ? -1 : 1, (bits >> 3) & 15, bits & 7];
  if (exponent === 15 && mantissa === 7) return NaN;
  return exponent === 0 ? sign * mantissa * 2 ** -9 : sign * (1 + mantissa / 8) * 2 ** (exponent - 7);
}

/** To nearest, ties to even; beyond 448 cut to that. */
export function toE4M3Bits(value: number): number {
  if (Number.isNaN(value)) return 0x7f;
  const sign = value < 0 || Object.is(value, -0) ? 0x80 : 0;
  const size = Math.min(Math.abs(value), 448);
  const exponent = Math.max(-6, Math.floor(Math.log2(size)));
  const eighths = roundEven(size * 2 ** (3 - exponent)); // of 2^exponent; a carry into the exponent comes out right
  return sign | (((exponent + 6) << 3) + eighths);
}

function roundEven(x: number): number {
  const floor = Math.floor(x);
  const rest = x - floor;
  return rest > 0.5 || (rest === 0.5 && floor % 2 === 1) ? floor + 1 : floor;
}

/** The values a tensor of this dtype would hold. */
export function roundTo(dtype: FloatType, values: Float64Array): Float64Array {
  if (dtype === 'float32') return values.map(Math.fround);
  return dtype === 'bfloat16' ? values.map((v) => fromBf16Bits(toBf16Bits(v))) : values.map((v) => fromF16Bits(toF16Bits(v)));
}

export function encode(dtype: FloatType, values: Float64Array): NodeJS.TypedArray {
  if (dtype === 'float32') return new Float32Array(values);
  return new Uint16Array(values.map(dtype === 'bfloat16' ? toBf16Bits : toF16Bits));
}

/** What a float8_e4m3 KV cache gives back for values of a float tensor. */
export function throughFp8(values: Float64Array, scale: number): Float64Array {
  const divisor = Math.fround(scale);
  return values.map((v) => fromE4M3Bits(toE4M3Bits(Math.fround(v / divisor))) * divisor);
}

/** sqrt(sum (a-b)^2 / sum b^2); NaN in either gives NaN, which no tolerance accepts. */
export function relativeL2(actual: Float64Array, expected: Float64Array): number {
  if (actual.length !== expected.length) return NaN;
  let error = 0;
  let norm = 0;
  for (let i = 0; i < expected.length; i++) {
    error += (actual[i]! - expected[i]!) ** 2;
    norm += expected[i]! ** 2;
  }
  return Math.sqrt(error / Math.max(norm, 1e-30));
}

/** A device with helpers to make and read tensors; everything is freed by close(), which checks that nothing is left. */
export class OpBench {
  readonly device: Device;
  private readonly scope: TemporaryScope;
  private readonly liveBefore = liveStorages().count;

  constructor(threads = 2) {
    this.device = Device.create(TEST_DEVICE, threads);
    this.scope = new TemporaryScope(this.device);
  }

  /** Runs ops; their outputs live until close(). */
  run<T>(fn: () => T): T {
    return inScope(this.scope, fn);
  }

  float(dtype: FloatType, shape: readonly number[], values: Float64Array): Tensor {
    const tensor = this.run(() => this.scope.allocate(shape, dtype));
    tensor.write(encode(dtype, values));
    return tensor;
  }

  ints(dtype: 'int32' | 'int64', shape: readonly number[], values: readonly number[]): Tensor {
    const tensor = this.run(() => this.scope.allocate(shape, dtype));
    tensor.write(dtype === 'int32' ? Int32Array.from(values) : BigInt64Array.from(values, BigInt));
    return tensor;
  }

  /** Memory filled with NaN: an op must write every element of its output. */
  poisoned(dtype: DType, shape: readonly number[]): Tensor {
    const tensor = this.run(() => this.scope.allocate(shape, dtype));
    const bytes = new Uint8Array(tensor.storage!.bytes).fill(0xff);
    tensor.write(viewOf(dtype, bytes.buffer));
    return tensor;
  }

  /** A view with any strides (in elements), `offset` elements into `base`. */
  view(base: Tensor, offset: number, shape: readonly number[], strides: readonly number[]): Tensor {
    return this.run(() => tensorScope().view(base, base.byteOffset + offset * DTYPE_BYTES[base.dtype], shape, strides));
  }

  /** The elements as float64. */
  async values(tensor: Tensor): Promise<Float64Array> {
    const raw = await tensor.read();
    if (tensor.dtype === 'float32') return new Float64Array(raw as Float32Array);
    if (tensor.dtype === 'bfloat16') return Float64Array.from(raw as Uint16Array, fromBf16Bits);
    if (tensor.dtype === 'float16') return Float64Array.from(raw as Uint16Array, fromF16Bits);
    if (tensor.dtype === 'float8_e4m3') return Float64Array.from(raw as Uint8Array, fromE4M3Bits);
    return Float64Array.from(raw as ArrayLike<number>, Number);
  }

  async close(): Promise<void> {
    this.scope.dispose();
    await this.device.close();
    expect(liveStorages().count).toBe(this.liveBefore);
  }
}

/** Runs a body once per instruction set level that this machine has, portable first; restores the best afterwards. Once on a GPU. */
export async function forEachIsa(body: (name: string) => Promise<void>): Promise<void> {
  if (TEST_DEVICE !== 'cpu') return body(TEST_DEVICE);
  const binding = loadBinding();
  const seen = new Set<string>();
  try {
    for (let level = 0; level <= 3; level++) {
      const name = binding.setIsa(level);
      if (seen.has(name)) continue;
      seen.add(name);
      await body(name);
    }
  } finally {
    binding.setIsa(3);
  }
}
