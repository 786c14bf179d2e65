import type { EngineCoreOutput, FinishReason, PositionLogprobs } from '../core/types';
import type { ResolvedSamplingParams } from '../sampling/params';
import type { IncrementalDetokenizer } from '../tokenizer/detokenizer';
import type { CompletionOutput, LogprobEntry, LogprobsAtPosition } from './outputs';
import { StopMatcher } from './stop-matcher';

/** Text of a single token for logprobs, or null where there is no tokenizer. */
export type TokenDecoder = (tokenId: number) => string | null;

/**
 * One sequence of a request as the client sees it: text, stop strings, logprobs, and how much of it has been handed out
 * (vllm.v1.engine.{detokenizer,logprobs}).
 */
export class SequenceState {
  finishReason: FinishReason | null = null;
  private readonly tokenIds: number[] = [];
  private readonly logprobs: LogprobsAtPosition[] | null;
  private readonly matcher: StopMatcher;
  private cumulativeLogprob = 0;
  private text = '';
  private stopReason: string | number | null = null;
  private error: CompletionOutput['error'] = null;
  private sentTokens = 0;
  private sentChars = 0;
  private sentFinish = false;

  constructor(
    private readonly index: number,
    private readonly params: ResolvedSamplingParams,
    private readonly detokenizer: IncrementalDetokenizer | null,
    private readonly decodeToken: TokenDecoder,
  ) {
    this.logprobs = params.logprobs === null ? null : [];
    this.matcher = new StopMatcher(params.stop);
  }

  get numTokens(): number {
    return this.tokenIds.length;
  }

  get hasNews(): boolean {
    return this.tokenIds.length > this.sentTokens || (this.finishReason !== null && !this.sentFinish);
  }

  /** Takes what a step produced. Returns true when a stop string ended the sequence, which the engine core does not know yet. */
  apply(output: EngineCoreOutput): boolean {
    const { newTokenIds, newLogprobs, finishReason } = output;
    for (let i = 0; i < newTokenIds.length; i++) {
      const tokenId = newTokenIds[i]!;
      this.tokenIds.push(tokenId);
      const position = newLogprobs?.[i];
      if (position !== undefined) this.addLogprobs(position);
      const endsSequence = finishReason === 'stop' && i === newTokenIds.length - 1;
      if (endsSequence && !this.params.includeStopStrInOutput) continue;
      if (this.append(this.detokenizer?.push([tokenId]) ?? '')) return finishReason === null;
    }
    if (finishReason === null) return false;
    if (this.append(this.detokenizer?.finish() ?? '')) return false;
    this.finish(finishReason, output.stopReason);
    if (finishReason === 'error') this.error = { code: 'ERR_KVASIR_NAN_LOGITS', message: output.error ?? 'The model failed for this request' };
    return false;
  }

  /** Ends the sequence where it is. */
  abort(): void {
    if (this.finishReason === null) this.finish('abort', null);
  }

  /** Everything so far, or with `delta` what is new since the last call. */
  takeOutput(delta: boolean): CompletionOutput {
    const finished = this.finishReason !== null;
    // A tail that may begin a stop string waits until it is decided; with includeStopStrInOutput it is text either way.
    const held = finished || this.params.includeStopStrInOutput ? 0 : this.matcher.pending;
    const visible = this.text.length - held;
    const fromToken = delta ? this.sentTokens : 0;
    const output: CompletionOutput = {
      index: this.index,
      text: this.text.slice(delta ? this.sentChars : 0, visible),
      tokenIds: this.tokenIds.slice(fromToken),
      cumulativeLogprob: this.logprobs === null ? null : this.cumulativeLogprob,
      logprobs: this.logprobs?.slice(fromToken) ?? null,
      finishReason: this.finishReason,
      stopReason: this.stopReason,
      error: this.error,
    };
    this.sentTokens = this.tokenIds.length;
    this.sentChars = visible;
    this.sentFinish = finished;
    return output;
  }

  /** Adds text; returns true when it completed a stop string, after cutting the text there. */
  private append(piece: string): boolean {
    // Stop strings count from the token after the first minTokens, as stop tokens do.
    const match = this.matcher.push(piece, this.tokenIds.length > this.params.minTokens || this.params.minTokens === 0);
    const before = this.text.length;
    this.text += piece;
    if (match === null) return false;
    const end = before + match.end;
    this.text = this.text.slice(0, this.params.includeStopStrInOutput ? end : end - match.stop.length);
    this.finish('stop', match.stop);
    return true;
  }

  private finish(reason: FinishReason, stopReason: string | number | null): void {
    this.finishReason = reason;
    this.stopReason = stopReason;
  }

  private addLogprobs(position: PositionLogprobs): void {
    if (this.logprobs === null) return;
    this.cumulativeLogprob += position.logprobs[0] ?? 0;
    this.logprobs.push(logprobEntries(position, this.decodeToken));
  }
}

/** The sampled token first, then the top k without it. Ranks of the top k are their places. */
export function logprobEntries(position: PositionLogprobs, decodeToken: TokenDecoder): LogprobsAtPosition {
  const entries: LogprobEntry[] = [];
  const first = position.tokenIds[0];
  for (const [i, tokenId] of position.tokenIds.entries()) {
    if (i > 0 && tokenId === first) continue;
    const rank = i === 0 ? position.sampledRank : i;
    entries.push({ tokenId, logprob: position.logprobs[i] ?? -Infinity, rank, decodedToken: decodeToken(tokenId) });
  }
  return entries;
}
