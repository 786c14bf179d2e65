import { LLM, type EngineArgs } from '../../lib/index';
import { sharedPath } from '../fixtures/shared';
import { ModelCopy } from '../integration/model-copy';

/** float32 log probabilities of a prompt's tokens from the second on, by a shared model with other entries in its config.json. */
export async function promptLogprobs(name: string, promptTokenIds: number[], changes: Record<string, unknown>, args: Partial<EngineArgs> = {}): Promise<number[]> {
  const copy = new ModelCopy(sharedPath('models', name));
  try {
    copy.editJson('config.json', (config) => Object.assign(config, changes));
    const llm = await LLM.create({ model: copy.dir, dtype: 'float32', device: 'cpu', ...args });
    try {
      const [output] = await llm.generate({ promptTokenIds }, { temperature: 0, maxTokens: 1, promptLogprobs: 0 });
      return output!.promptLogprobs!.slice(1).map((entries) => entries![0]!.logprob);
    } finally {
      await llm.close();
    }
  } finally {
    copy.remove();
  }
}
