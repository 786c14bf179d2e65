import type { NewRequestData, ScheduledRequest, SchedulerOutput } from '../core/types';
import { ByteCursor, damaged } from './byte-cursor';
import { parseSamplingParams } from './sampling-params';
import { NEW_REQUEST_BYTES, SCHEDULED_BYTES, STEP_VERSION } from './step-encoder';

/** Requests that one group may have at once; handles are small, since the encoder uses those of removed requests again. */
const MAX_HANDLES = 1 << 20;
/** Stands for every empty list. */
const NO_BLOCK_IDS: readonly number[] = Object.freeze([]);

/** Reads what a {@link StepEncoder} wrote, every message in its order. */
export class StepDecoder {
  /** Ids by handle. */
  private readonly ids = new Map<number, string>();

  /** @throws KvasirError ERR_KVASIR_RANK for bytes that are no step; the decoder is of no use after that */
  decode(bytes: Uint8Array): SchedulerOutput {
    const cursor = new ByteCursor(bytes);
    const version = cursor.uint8();
    if (version !== STEP_VERSION) throw damaged(`version ${version}`);
    const removedRequestIds = this.decodeRemoved(cursor);
    const numNew = cursor.length('number of new requests', NEW_REQUEST_BYTES);
    const newRequests: NewRequestData[] = [];
    for (let i = 0; i < numNew; i++) newRequests.push(this.decodeNew(cursor));
    const totalNumScheduledTokens = cursor.count('number of tokens');
    const scheduled = this.decodeScheduled(cursor, totalNumScheduledTokens);
    if (cursor.remaining > 0) throw damaged(`${cursor.remaining} bytes behind its end`);
    return { newRequests, scheduled, totalNumScheduledTokens, removedRequestIds };
  }

  private decodeRemoved(cursor: ByteCursor): readonly string[] {
    const handles = cursor.counts('handle', cursor.length('number of removed requests', 4));
    return handles.map((handle) => {
      const requestId = this.idOf(handle);
      this.ids.delete(handle);
      return requestId;
    });
  }

  private decodeNew(cursor: ByteCursor): NewRequestData {
    const handle = cursor.count('handle');
    if (handle >= MAX_HANDLES) throw damaged(`handle ${handle}`);
    const requestId = cursor.string(2 * cursor.length('length of a request id', 2), 'utf16le');
    const samplingParams = parseSamplingParams(cursor.string(cursor.length('length of sampling parameters', 1), 'utf8'));
    const numPromptTokens = cursor.count('number of prompt tokens');
    const tokenIds = cursor.counts('token', cursor.length('number of tokens', 4));
    if (numPromptTokens > tokenIds.length) throw damaged(`${numPromptTokens} prompt tokens of ${tokenIds.length}`);
    this.ids.set(handle, requestId);
    return { requestId, tokenIds, numPromptTokens, samplingParams };
  }

  private decodeScheduled(cursor: ByteCursor, total: number): readonly ScheduledRequest[] {
    const numScheduled = cursor.length('number of scheduled requests', SCHEDULED_BYTES);
    const scheduled = new Array<ScheduledRequest>(numScheduled);
    let sum = 0;
    for (let i = 0; i < numScheduled; i++) {
      const requestId = this.idOf(cursor.count('handle'));
      const numComputedTokens = cursor.count('number of computed tokens');
      const numScheduledTokens = cursor.count('number of scheduled tokens');
      const numBlocks = cursor.length('number of blocks', 4);
      const newBlockIds = numBlocks === 0 ? NO_BLOCK_IDS : cursor.counts('block', numBlocks);
      scheduled[i] = { requestId, numComputedTokens, numScheduledTokens, newBlockIds };
      sum += numScheduledTokens;
    }
    if (sum !== total) throw damaged(`${sum} scheduled tokens where it says ${total}`);
    return scheduled;
  }

  private idOf(handle: number): string {
    const requestId = this.ids.get(handle);
    if (requestId === undefined) throw damaged(`handle ${handle}, which stands for no request`);
    return requestId;
  }
}
