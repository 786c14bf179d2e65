import { loadBinding, wrapNativeError } from '../binding/load';
import type { CommunicatorKind, NativeBinding, NativeComm } from '../binding/native';
import type { Device } from '../tensor/device';
import type { Tensor } from '../tensor/tensor';
import { call } from './run';

export type { CommunicatorKind };

/** The number by which the addon knows one rank's end of a group. */
export type CommunicatorId = number;

export interface CommunicatorOptions {
  /** local: ranks of one process, each with a device object of its own; gloo: CPU ranks over TCP; nccl: one GPU per rank. */
  readonly kind: CommunicatorKind;
  readonly rank: number;
  readonly size: number;
  /** gloo: address or name of the interface to listen on; the loopback without it. */
  readonly host?: string;
  /** How long a rank waits for others that do not answer at all before it fails. */
  readonly timeoutMs?: number;
}

const DEFAULT_TIMEOUT_MS = 120_000;

/** Every rank's x becomes their sum, the same bits on each: added in float32, rounded once. x is contiguous, of a floating dtype. */
export function allReduce(communicator: CommunicatorId, x: Tensor): void {
  call('allReduce', communicator, x);
}

/** out = the x of all ranks behind each other, by rank; both contiguous. */
export function allGather(communicator: CommunicatorId, out: Tensor, x: Tensor): void {
  call('allGather', communicator, out, x);
}

/** out = the sum over the ranks of piece number `rank` of their x, which is as many pieces as ranks; both contiguous, of a floating dtype. */
export function reduceScatter(communicator: CommunicatorId, out: Tensor, x: Tensor): void {
  call('reduceScatter', communicator, out, x);
}

/** Every rank's x becomes that of rank `root`; contiguous. */
export function broadcast(communicator: CommunicatorId, x: Tensor, root: number): void {
  call('broadcast', communicator, x, root);
}

/** @param first rank 0's communicator of a local group */
export function createCommunicator(device: Device, options: CommunicatorOptions, first: CommunicatorId | null): CommunicatorId {
  const { kind, rank, size, host = '', timeoutMs = DEFAULT_TIMEOUT_MS } = options;
  return native((b) => b.createCommunicator(device.stream, kind, rank, size, host, timeoutMs, first ?? -1));
}

export function communicatorAddress(communicator: CommunicatorId): Uint8Array {
  return new Uint8Array(native((b) => b.communicatorAddress(communicator)));
}

/** @param addresses of all ranks, by rank */
export async function connectCommunicator(communicator: CommunicatorId, addresses: readonly Uint8Array[]): Promise<void> {
  try {
    await loadBinding().connectCommunicator(communicator, addresses.map((bytes) => Uint8Array.from(bytes).buffer));
  } catch (error) {
    throw wrapNativeError(error);
  }
}

export function abortCommunicator(communicator: CommunicatorId): void {
  native((b) => b.abortCommunicator(communicator));
}

export function destroyCommunicator(communicator: CommunicatorId): void {
  native((b) => b.destroyCommunicator(communicator));
}

/** Which libraries for groups of processes this build and machine have: their place, or where they were looked for. */
export function commInfo(): ReturnType<NativeComm['commInfo']> {
  return native((b) => b.commInfo());
}

function native<T>(body: (binding: NativeBinding) => T): T {
  try {
    return body(loadBinding());
  } catch (error) {
    throw wrapNativeError(error);
  }
}
