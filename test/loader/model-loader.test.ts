import * as fs from 'node:fs';
import * as path from 'node:path';
import type { VllmConfig } from '../../lib/config/vllm';
import { openCheckpoint } from '../../lib/loader/checkpoint';
import { FileWeight } from '../../lib/loader/file-weight';
import { buildModel, disposeModel, loadModel, weightBytes } from '../../lib/loader/model-loader';
import type { TextGenerationModel } from '../../lib/models/interfaces';
import { Module } from '../../lib/nn/module';
import { Parameter, type LoadedWeight } from '../../lib/nn/parameter';
import { Device, liveStorages } from '../../lib/tensor/device';
import { withTensors } from '../../lib/tensor/scope';
import { tensorTable } from '../../lib/tensor/table';
import { expectCode } from '../fixtures/expect-error';
import { makeSafetensors, makeTempDir, type TensorSpec } from '../fixtures/safetensors-file';
import { makeVllmConfig, type VllmConfigParts } from '../fixtures/vllm-config';

let dir: string;
let device: Device;

beforeEach(() => {
  dir = makeTempDir();
  device = Device.create('cpu', 1);
});

afterEach(async () => {
  await device.close();
  expect(liveStorages().count).toBe(0);
  expect(tensorTable().liveRows).toBe(0);
  fs.rmSync(dir, { recursive: true, force: true });
});

function counting(first: number, ...shape: number[]): TensorSpec {
  const values = Float32Array.from({ length: shape.reduce((a, b) => a * b, 1) }, (_, i) => first + i);
  return { dtype: 'F32', shape, data: Buffer.from(values.buffer) };
}

const LAYER = 'model.layers.0';

/** A checkpoint of the one-layer model of {@link config}. */
function tensors(): Record<string, TensorSpec> {
  return {
    'model.embed_tokens.weight': counting(0, 64, 16),
    [`${LAYER}.input_layernorm.weight`]: counting(1000, 16),
    [`${LAYER}.post_attention_layernorm.weight`]: counting(2000, 16),
    [`${LAYER}.self_attn.q_proj.weight`]: counting(0, 16, 16),
    [`${LAYER}.self_attn.k_proj.weight`]: counting(0, 8, 16),
    [`${LAYER}.self_attn.v_proj.weight`]: counting(0, 8, 16),
    [`${LAYER}.self_attn.o_proj.weight`]: counting(0, 16, 16),
    [`${LAYER}.mlp.gate_proj.weight`]: counting(0, 24, 16),
    [`${LAYER}.mlp.up_proj.weight`]: counting(0, 24, 16),
    [`${LAYER}.mlp.down_proj.weight`]: counting(0, 16, 24),
    'model.norm.weight': counting(3000, 16),
    'lm_head.weight': counting(5000, 64, 16),
  };
}

const save = (content: Record<string, TensorSpec>): void => fs.writeFileSync(path.join(dir, 'model.safetensors'), makeSafetensors(content));

function config(parts: VllmConfigParts = {}): VllmConfig {
  return makeVllmConfig({ ...parts, quantization: null, model: { numHiddenLayers: 1, modelPath: dir, ...parts.model } });
}

/** Ends a model and the cache tensors of its attention layers, which a KvCache would own. */
function end(model: TextGenerationModel, vllmConfig: VllmConfig): void {
  disposeModel(model);
  for (const layer of vllmConfig.staticForwardContext.values() as Iterable<{ kvCache?: { dispose(): void } }>) layer.kvCache!.dispose();
}

const named = (model: Module, name: string): Parameter => [...model.parameters()].find((p) => p.name === name)!;
const floats = async (param: Parameter): Promise<number[]> => Array.from((await param.tensor.read()) as Float32Array);

describe('buildModel', () => {
  it('makes shapes only, and attention layers register under the names of the checkpoint', () => {
    const vllmConfig = config({ model: { numHiddenLayers: 2 } });
    const model = buildModel(vllmConfig);
    expect(liveStorages().count).toBe(0);
    expect([...vllmConfig.staticForwardContext.keys()]).toEqual(['model.layers.0.self_attn.attn', 'model.layers.1.self_attn.attn']);
    const shapes = Object.fromEntries([...model.parameters()].map((p) => [p.name, p.shape]));
    expect(shapes).toMatchObject({
      'model.embed_tokens.weight': [64, 16],
      'model.layers.1.self_attn.qkv_proj.weight': [32, 16],
      'model.layers.1.mlp.gate_up_proj.weight': [48, 16],
      'model.layers.1.mlp.down_proj.weight': [16, 24],
      'lm_head.weight': [64, 16],
    });
    expect(Object.keys(shapes)).toHaveLength(2 * 6 + 3);
    end(model, vllmConfig);
  });

  it('one rank of four holds a quarter of the matrices', () => {
    const vllmConfig = config({ parallel: { tensorParallelSize: 4, tpRank: 3 } });
    const model = buildModel(vllmConfig);
    expect(named(model, `${LAYER}.self_attn.qkv_proj.weight`).shape).toEqual([12, 16]); // one query head, one KV head of two ranks
    expect(named(model, `${LAYER}.mlp.down_proj.weight`).shape).toEqual([16, 6]);
    end(model, vllmConfig);
  });

  it('an architecture or a quantization that is not there is refused', async () => {
    await expectCode('ERR_KVASIR_UNSUPPORTED_MODEL', () => buildModel(config({ model: { architectures: ['Nobody'] } })));
    const quantized = { ...config(), quantization: { quant_method: 'nothing-like-it' } };
    await expectCode('ERR_KVASIR_UNSUPPORTED', () => buildModel(quantized));
  });
});

describe('loadModel', () => {
  async function load(parts: VllmConfigParts, body: (model: TextGenerationModel) => Promise<void>, onProgress?: (loaded: number, total: number) => void): Promise<void> {
    const vllmConfig = config(parts);
    const model = buildModel(vllmConfig);
    try {
      await loadModel(model, vllmConfig, device, { onProgress });
      await body(model);
    } finally {
      end(model, vllmConfig);
    }
  }

  it('reads every tensor of the checkpoint, in the memory that was announced', async () => {
    save(tensors());
    await load({}, async (model) => {
      expect(liveStorages().bytes).toBe(weightBytes(model));
      expect(await floats(named(model, 'model.norm.weight'))).toEqual(Array.from({ length: 16 }, (_, i) => 3000 + i));
      expect(await floats(named(model, 'model.embed_tokens.weight'))).toEqual(Array.from({ length: 1024 }, (_, i) => i));
      expect([...model.parameters()].every((p) => p.isLoaded)).toBe(true);
      expect(named(model, 'lm_head.weight').tensor.packed).toBe(true);
    });
  });

  it.each([
    ['with', true],
    ['without', false],
  ])('tied embeddings %s a copy in the checkpoint: the copy is not read', async (_name, copy) => {
    const { 'lm_head.weight': head, ...rest } = tensors();
    save(copy ? { ...rest, 'lm_head.weight': head! } : rest);
    await load({ model: { tieWordEmbeddings: true } }, async (model) => {
      const embed = named(model, 'model.embed_tokens.weight');
      expect(embed.tensor.packed).toBe(true);
      expect([...model.parameters()].some((p) => p.name === 'lm_head.weight')).toBe(false);
      await withTensors(device, async (within, temporary) => {
        const rows = within(() => {
          const ids = temporary.allocate([2], 'int32');
          ids.write(Int32Array.of(63, 1));
          return model.embedInputIds!(ids);
        });
        expect(Array.from((await rows.read()) as Float32Array)).toEqual([63, 1].flatMap((id) => Array.from({ length: 16 }, (_, i) => id * 16 + i)));
      });
    });
  });

  it('lists all that is missing and unexpected in one error and leaves nothing behind', async () => {
    const { 'model.norm.weight': _norm, [`${LAYER}.mlp.up_proj.weight`]: _up, ...rest } = tensors();
    save({ ...rest, 'model.extra': counting(0, 2) });
    const error = await expectCode('ERR_KVASIR_WEIGHTS', () => load({}, async () => undefined));
    for (const name of ['2 missing', 'model.norm.weight', 'mlp.up_proj.weight', 'model.extra']) expect(error.message).toContain(name);
  });

  it('a tensor of another shape is named', async () => {
    save({ ...tensors(), [`${LAYER}.self_attn.k_proj.weight`]: counting(0, 16, 16) });
    const error = await expectCode('ERR_KVASIR_WEIGHTS', () => load({}, async () => undefined));
    expect(error.message).toContain('k_proj.weight has shape [16, 16]');
  });

  it('dummy weights need no files and depend on the seed alone', async () => {
    const values: number[][] = [];
    for (const seed of [3, 3, 4])
      await load({ loadFormat: 'dummy', seed, model: { modelPath: path.join(dir, 'none') } }, async (model) => {
        values.push(await floats(named(model, 'model.embed_tokens.weight')));
        expect(values.at(-1)!.every(Number.isFinite)).toBe(true);
      });
    expect(values[0]).toEqual(values[1]);
    expect(values[0]).not.toEqual(values[2]);
  });
});

/** Parameters p0, p1, .. that are loaded as they are; `before` runs when loading begins. */
class Flat extends Module {
  readonly params: Parameter[];

  constructor(count: number, shape: readonly number[], private readonly before: () => void = () => undefined) {
    super('');
    this.params = Array.from({ length: count }, (_, i) => new Parameter(`p${i}`, shape, 'float32'));
  }

  loadWeights(weights: Iterable<LoadedWeight>): void {
    this.before();
    for (const weight of weights) this.params.find((p) => p.name === weight.name)!.load(weight, null);
  }
}

describe('reading a checkpoint', () => {
  const ROWS = 512;
  const WIDTH = 1024; // 2 MiB per tensor
  const shape = [ROWS, WIDTH];
  const bytes = ROWS * WIDTH * 4;

  async function loadFlat(model: Flat, onProgress?: (loaded: number, total: number) => void): Promise<void> {
    try {
      await loadModel(model as unknown as TextGenerationModel, config(), device, { onProgress });
    } finally {
      for (const param of model.parameters()) param.dispose();
    }
  }

  /** p0 and p1 in the file that is returned, p2 and p3 in one that is read after it. */
  function saveFlat(): string {
    const [first, second] = ['a', 'b'].map((name) => path.join(dir, `${name}.safetensors`)) as [string, string];
    const spec = (value: number): TensorSpec => ({ dtype: 'F32', shape, data: Buffer.alloc(bytes, value) });
    fs.writeFileSync(first, makeSafetensors({ p0: spec(0), p1: spec(1) }));
    fs.writeFileSync(second, makeSafetensors({ p2: spec(2), p3: spec(3) }));
    return first;
  }

  it('reports progress that only grows and ends with everything', async () => {
    saveFlat();
    const reports: [number, number][] = [];
    await loadFlat(new Flat(4, shape), (...report) => reports.push(report));
    expect(reports).toEqual([1, 2, 3, 4].map((n) => [n * bytes, 4 * bytes]));
  });

  it.each([true, false])('a file that ends early is an error, even if what is read after it is good (progress reports: %p)', async (progress) => {
    const file = saveFlat();
    const reports: number[] = [];
    const model = new Flat(4, shape, () => fs.truncateSync(file, bytes / 2));
    await expectCode('ERR_KVASIR_CHECKPOINT', () => loadFlat(model, progress ? (loaded) => reports.push(loaded) : undefined));
    expect(reports).not.toContain(4 * bytes);
    expect(liveStorages().bytes).toBeLessThanOrEqual(4 * bytes);
    await device.synchronize();
  });

  it('weights that do not fit into memory are an error', async () => {
    saveFlat();
    await expectCode('ERR_KVASIR_OUT_OF_MEMORY', () => loadFlat(new Flat(2, [2 ** 30, 2 ** 20])));
  });
});

describe('FileWeight', () => {
  it('reads what it was narrowed to, converted, and refuses what lies outside', async () => {
    const bits = Uint16Array.from({ length: 24 }, (_, i) => new Uint16Array(Float32Array.of(i).buffer)[1]!);
    save({ w: { dtype: 'BF16', shape: [4, 6], data: Buffer.from(bits.buffer) } });
    const checkpoint = await openCheckpoint(dir);
    const weight = FileWeight.of(checkpoint.tensors.get('w')!);
    expect(weight).toMatchObject({ name: 'w', dtype: 'bfloat16', shape: [4, 6], bytes: 48 });
    const part = weight.narrow(0, 1, 3).narrow(1, 2, 2).narrow(0, 1, 2);
    expect(part.shape).toEqual([2, 2]);
    await withTensors(device, async (within, temporary) => {
      const out = within(() => temporary.allocate([2, 2], 'float32'));
      part.copyInto(out);
      expect(Array.from((await out.read()) as Float32Array)).toEqual([14, 15, 20, 21]);
      await expectCode('ERR_KVASIR_TENSOR', () => weight.copyInto(out));
    });
    for (const [dim, start, length] of [[0, 3, 2], [1, -1, 2], [1, 0, -1], [2, 0, 1]] as const)
      await expectCode('ERR_KVASIR_WEIGHTS', () => weight.narrow(dim, start, length));
    await checkpoint.close();
  });
});
