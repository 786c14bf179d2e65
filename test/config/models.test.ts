import * as fs from 'node:fs';
import * as path from 'node:path';

import { resolveVllmConfig } from '../../lib/config/resolve';
import { describeShared, hasShared, readSharedJson, sharedPath } from '../fixtures/shared';

function modelDirs(): string[] {
  if (!hasShared) return ['models'];
  const found = fs.readdirSync(sharedPath('models'), { recursive: true, encoding: 'utf8' });
  return found.filter((file) => path.basename(file) === 'config.json').map((file) => path.join('models', path.dirname(file))).sort();
}

const resolve = async (dir: string) => (await resolveVllmConfig({ model: sharedPath('models', dir) })).model;

describeShared('configs of real models', () => {
  it.each(modelDirs())('resolves %s', async (dir) => {
    const config = await resolveVllmConfig({ model: sharedPath(dir) });
    const raw = readSharedJson<Record<string, unknown>>(dir, 'config.json');
    expect(config.model.architectures).toEqual(raw.architectures);
    expect(config.model.dtype).toBe(raw.torch_dtype);
    expect(config.model.hiddenSize).toBe(raw.hidden_size ?? raw.n_embd);
    expect(config.model.numAttentionHeads % config.model.numKeyValueHeads).toBe(0);
    expect(config.quantization).toEqual(raw.quantization_config ?? null);
    expect(config.model.eosTokenIds.length).toBeGreaterThan(0);
    expect(structuredClone(config)).toEqual(config);
  });

  it('reads the particulars of each family', async () => {
    expect(await resolve('kvasir-tales-5m')).toMatchObject({
      eosTokenIds: [1], generationDefaults: { temperature: 0.8, topP: 0.95, maxTokens: 400 }, maxModelLen: 1024, headDim: 64, tieWordEmbeddings: true,
    });
    expect(await resolve('stories260K')).toMatchObject({ eosTokenIds: [1, 2], generationDefaults: {}, headDim: 8, numKeyValueHeads: 4 });
    expect(await resolve('tiny-random/gpt2')).toMatchObject({ maxModelLen: 512, numHiddenLayers: 3, headDim: 16, tieWordEmbeddings: true });
    expect(await resolve('tiny-random/opt')).toMatchObject({ tieWordEmbeddings: true, numKeyValueHeads: 4 });
    expect(await resolve('tiny-random/qwen2')).toMatchObject({ slidingWindow: null, interleavedSlidingWindow: null });
    expect(await resolve('tiny-random/mistral-sliding-window')).toMatchObject({ slidingWindow: 16, interleavedSlidingWindow: null });
    expect(await resolve('tiny-random/gemma2')).toMatchObject({ slidingWindow: null, interleavedSlidingWindow: 16, headDim: 32 });
    expect(await resolve('tiny-random/llama-rope-llama3')).toMatchObject({ maxModelLen: 512 });
  });
});
