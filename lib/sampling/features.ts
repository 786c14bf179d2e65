import { allowedTokens } from './allowed-tokens';
import type { LogitsFeature } from './logits-feature';
import { logitBias } from './logit-bias';
import { minTokens } from './min-tokens';

/** In the order in which they apply (vllm/v1/sample/sampler.py). A feature is its file and its line here. */
export const LOGITS_FEATURES: readonly LogitsFeature[] = [allowedTokens, minTokens, logitBias];
