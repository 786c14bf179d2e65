import type { VllmConfig } from '../config/vllm';

/** What rank 0 tells a rank that it started, over the channel that child processes have with their parent. */
export interface RankInit {
  readonly config: VllmConfig;
  readonly secret: string;
}
