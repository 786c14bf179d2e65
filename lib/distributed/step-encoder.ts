import type { NewRequestData, ScheduledRequest, SchedulerOutput } from '../core/types';
import { KvasirError } from '../utils/errors';

/**
 * A step as bytes; all numbers little endian, counts and ids int32.
 *
 *   u8 version
 *   numRemoved, handle * numRemoved
 *   numNew, { handle, numIdChars, id (UTF-16), numParamsBytes, sampling params (JSON), numPromptTokens, numTokens, token * numTokens } * numNew
 *   totalNumScheduledTokens
 *   numScheduled, { handle, numComputedTokens, numScheduledTokens, numBlocks, block * numBlocks } * numScheduled
 *
 * A request's id travels once, when the request is new; from then on a small number, its handle, stands for it, until it is removed.
 * UTF-16, because ids are any strings of JavaScript and must stay different from each other.
 */
export const STEP_VERSION = 1;

/** Bytes of a new and of a scheduled request without what is as long as it is. */
export const NEW_REQUEST_BYTES = 20;
export const SCHEDULED_BYTES = 16;

const INITIAL_BYTES = 16 << 10;
/** More than this is not kept after a step that needed it. */
const MAX_KEPT_BYTES = 4 << 20;

/** Encodes the steps of one engine, in their order. Its {@link StepDecoder} has to read all of them. */
export class StepEncoder {
  private readonly handles = new Map<string, number>();
  private readonly freeHandles: number[] = [];
  private nextHandle = 0;
  /** Of the step before, by place in the batch: while no request comes or goes, mostly the same ones are at the same places. */
  private lastIds: string[] = [];
  private lastHandles: number[] = [];
  private bytes: Buffer = Buffer.allocUnsafeSlow(INITIAL_BYTES);
  private view = viewOf(this.bytes);
  private at = 0;

  /** @param headroom bytes that stay free before each message, for a frame's header */
  constructor(private readonly headroom = 0) {}

  /**
   * The step's bytes. They are valid until the next call, unless {@link keep} is called before it. Removed requests that were never
   * sent are left out.
   */
  encode(step: SchedulerOutput): Buffer {
    if (this.bytes.length > MAX_KEPT_BYTES) this.keep();
    this.at = this.headroom;
    this.ensure(16);
    this.bytes[this.at++] = STEP_VERSION;
    this.encodeRemoved(step.removedRequestIds);
    this.int(step.newRequests.length);
    for (const request of step.newRequests) this.encodeNew(request);
    if (step.newRequests.length + step.removedRequestIds.length > 0) this.lastIds.length = 0;
    this.ensure(8 + SCHEDULED_BYTES * step.scheduled.length);
    this.int(step.totalNumScheduledTokens);
    this.encodeScheduled(step.scheduled);
    return this.bytes.subarray(0, this.at);
  }

  /** The result of the last {@link encode} stays as it is: the next one gets memory of its own. */
  keep(): void {
    this.bytes = Buffer.allocUnsafeSlow(INITIAL_BYTES);
    this.view = viewOf(this.bytes);
  }

  private encodeRemoved(requestIds: readonly string[]): void {
    this.ensure(8 + 4 * requestIds.length);
    const lengthAt = this.at;
    this.at += 4;
    let length = 0;
    for (const requestId of requestIds) {
      const handle = this.handles.get(requestId);
      if (handle === undefined) continue;
      this.handles.delete(requestId);
      this.freeHandles.push(handle);
      this.int(handle);
      length++;
    }
    this.view.setInt32(lengthAt, length, true);
  }

  private encodeNew({ requestId, samplingParams, numPromptTokens, tokenIds }: NewRequestData): void {
    const params = JSON.stringify(samplingParams);
    // A char takes at most 3 bytes of UTF-8.
    this.ensure(NEW_REQUEST_BYTES + 2 * requestId.length + 3 * params.length + 4 * tokenIds.length);
    this.int(this.takeHandle(requestId));
    this.int(requestId.length);
    this.at += this.bytes.write(requestId, this.at, 'utf16le');
    const lengthAt = this.at;
    const numParamsBytes = this.bytes.write(params, lengthAt + 4, 'utf8');
    this.int(numParamsBytes);
    this.at += numParamsBytes;
    this.int(numPromptTokens);
    this.int(tokenIds.length);
    const { view, at } = this;
    for (let i = 0; i < tokenIds.length; i++) view.setInt32(at + 4 * i, tokenIds[i]!, true);
    this.at += 4 * tokenIds.length;
  }

  private encodeScheduled(scheduled: readonly ScheduledRequest[]): void {
    this.int(scheduled.length);
    for (let i = 0; i < scheduled.length; i++) {
      const { requestId, numComputedTokens, numScheduledTokens, newBlockIds } = scheduled[i]!;
      const numBlocks = newBlockIds.length;
      if (numBlocks > 0) this.ensure(4 * numBlocks + SCHEDULED_BYTES * (scheduled.length - i));
      const { view, at } = this;
      view.setInt32(at, this.lastIds[i] === requestId ? this.lastHandles[i]! : this.look(i, requestId), true);
      view.setInt32(at + 4, numComputedTokens, true);
      view.setInt32(at + 8, numScheduledTokens, true);
      view.setInt32(at + 12, numBlocks, true);
      for (let k = 0; k < numBlocks; k++) view.setInt32(at + SCHEDULED_BYTES + 4 * k, newBlockIds[k]!, true);
      this.at = at + SCHEDULED_BYTES + 4 * numBlocks;
    }
  }

  private look(place: number, requestId: string): number {
    const handle = this.handles.get(requestId);
    if (handle === undefined) throw new KvasirError('ERR_KVASIR_ENGINE_DEAD', `a step runs request ${requestId}, which no step brought to the other ranks`);
    this.lastIds[place] = requestId;
    this.lastHandles[place] = handle;
    return handle;
  }

  /** A request that comes again, without having been removed, starts anew under its handle. */
  private takeHandle(requestId: string): number {
    const known = this.handles.get(requestId);
    if (known !== undefined) return known;
    const handle = this.freeHandles.pop() ?? this.nextHandle++;
    this.handles.set(requestId, handle);
    return handle;
  }

  private int(value: number): void {
    this.view.setInt32(this.at, value, true);
    this.at += 4;
  }

  /** Makes room for this many bytes at the cursor. */
  private ensure(numBytes: number): void {
    const wanted = this.at + numBytes;
    if (wanted <= this.bytes.length) return;
    const larger = Buffer.allocUnsafeSlow(Math.max(wanted, 2 * this.bytes.length));
    this.bytes.copy(larger, 0, 0, this.at);
    this.bytes = larger;
    this.view = viewOf(larger);
  }
}

function viewOf({ buffer, byteOffset, byteLength }: Buffer): DataView {
  return new DataView(buffer, byteOffset, byteLength);
}
