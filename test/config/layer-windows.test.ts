import { layerWindows, slidingWindows } from '../../lib/config/layer-windows';
import { expectCode } from '../fixtures/expect-error';

const sliding = 'sliding_attention';
const full = 'full_attention';

type Case = readonly [name: string, config: Record<string, unknown>, windows: readonly (number | null)[]];

const CASES: readonly Case[] = [
  ['no window', {}, [null, null, null, null]],
  ['one for all', { sliding_window: 16 }, [16, 16, 16, 16]],
  ['one that is switched off', { sliding_window: 16, use_sliding_window: false }, [null, null, null, null]],
  ['layer_types', { sliding_window: 16, layer_types: [sliding, full, sliding, full] }, [16, null, 16, null]],
  ['layer_types without a window', { layer_types: [sliding, full, sliding, full] }, [null, null, null, null]],
  ['layer_types switched off', { sliding_window: 16, use_sliding_window: false, layer_types: [sliding, full, sliding, full] }, [null, null, null, null]],
  ['layer_types before a pattern', { sliding_window: 16, sliding_window_pattern: 2, layer_types: [full, full, full, sliding] }, [null, null, null, 16]],
  ['sliding_window_pattern', { sliding_window: 16, sliding_window_pattern: 3 }, [16, 16, null, 16]],
  ['sliding_window_pattern 1', { sliding_window: 16, sliding_window_pattern: 1 }, [null, null, null, null]],
  ['_sliding_window_pattern', { sliding_window: 16, _sliding_window_pattern: 4 }, [16, 16, 16, null]],
  ['a list, one for each layer', { sliding_window: [8, null, 32, 8] }, [8, null, 32, 8]],
  ['a list, repeated', { sliding_window: [null, 8, 8] }, [null, 8, 8, null]],
  ['a list of one', { sliding_window: [8] }, [8, 8, 8, 8]],
  ['a list that is switched off', { sliding_window: [8, null], use_sliding_window: false }, [null, null, null, null]],
  ['Gemma 2', { model_type: 'gemma2', sliding_window: 16 }, [16, null, 16, null]],
  ['Gemma 2 without a window', { model_type: 'gemma2', sliding_window: null }, [null, null, null, null]],
  ['Gemma 2 with layer_types', { model_type: 'gemma2', sliding_window: 16, layer_types: [full, sliding, full, full] }, [null, 16, null, null]],
  ['Cohere 2', { model_type: 'cohere2', sliding_window: 16 }, [16, 16, 16, null]],
  ['max_window_layers', { sliding_window: 16, use_sliding_window: true, max_window_layers: 1 }, [null, 16, 16, 16]],
  ['Qwen 2, whose window is off unless switched on', { model_type: 'qwen2', sliding_window: 16, max_window_layers: 1 }, [null, null, null, null]],
  ['Qwen 3, switched on', { model_type: 'qwen3', sliding_window: 16, use_sliding_window: true, max_window_layers: 3 }, [null, null, null, 16]],
  ['Qwen 3, 28 full layers unless config.json says', { model_type: 'qwen3', sliding_window: 16, use_sliding_window: true }, [null, null, null, null]],
];

it.each(CASES)('windows of layers: %s', (_name, config, windows) => {
  expect(layerWindows(config, 4)).toEqual(windows);
});

it.each<readonly [Record<string, unknown>, number | null, number | null]>([
  [{}, null, null],
  [{ sliding_window: 16 }, 16, null],
  [{ sliding_window: [16, 16] }, 16, null],
  [{ sliding_window: [8, 16] }, null, 16],
  [{ sliding_window: [null, 16, 8] }, null, 16],
  [{ sliding_window: 16, sliding_window_pattern: 2 }, null, 16],
  [{ sliding_window: 16, sliding_window_pattern: 1 }, null, null],
  [{ model_type: 'qwen2', sliding_window: 16, use_sliding_window: true, max_window_layers: 4 }, null, null],
  [{ model_type: 'qwen2', sliding_window: 16, use_sliding_window: true, max_window_layers: 0 }, 16, null],
])('of the model %j: %p, interleaved %p', (config, slidingWindow, interleavedSlidingWindow) => {
  expect(slidingWindows(config, 4)).toEqual({ slidingWindow, interleavedSlidingWindow });
});

it.each<readonly [string, Record<string, unknown>]>([
  ['an empty list', { sliding_window: [] }],
  ['a list of more windows than layers', { sliding_window: [1, 2, 3, 4, 5] }],
  ['a list with 0', { sliding_window: [8, 0] }],
  ['a list with a fraction', { sliding_window: [8, 1.5] }],
  ['a list with a string', { sliding_window: ['8'] }],
  ['an object', { sliding_window: {} }],
  ['pattern 0', { sliding_window: 16, sliding_window_pattern: 0 }],
  ['pattern -2', { sliding_window: 16, sliding_window_pattern: -2 }],
  ['max_window_layers -1', { sliding_window: 16, max_window_layers: -1 }],
  ['layer_types of another length', { layer_types: [full] }],
])('is refused: %s', async (_name, config) => {
  await expectCode('ERR_KVASIR_MODEL_CONFIG', () => layerWindows(config, 4));
});
