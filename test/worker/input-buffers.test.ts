import { Device, liveStorages } from '../../lib/tensor/device';
import { tensorTable } from '../../lib/tensor/table';
import type { Tensor } from '../../lib/tensor/tensor';
import { InputBuffers, type StepInputs } from '../../lib/worker/input-buffers';
import { expectCode } from '../fixtures/expect-error';

const MAX_TOKENS = 6;
const MAX_SEQS = 3;
const BLOCKS = 4;

let device: Device;
let buffers: InputBuffers;

beforeEach(() => {
  device = Device.create('cpu', 1);
  buffers = new InputBuffers(device, MAX_TOKENS, MAX_SEQS, BLOCKS);
});

afterEach(async () => {
  buffers.dispose();
  await device.close();
  expect(liveStorages().count).toBe(0);
  expect(tensorTable().liveRows).toBe(0);
});

function inputs(numTokens: number, numSeqs: number, first: number): StepInputs {
  const ints = (n: number, at: number): Int32Array => Int32Array.from({ length: n }, (_, i) => first + at + i);
  return {
    inputIds: ints(numTokens, 0),
    positions: ints(numTokens, 100),
    slotMapping: BigInt64Array.from({ length: numTokens }, (_, i) => BigInt(first + i) << 33n),
    queryStartLoc: ints(numSeqs + 1, 200),
    seqLens: ints(numSeqs, 300),
    seqRows: ints(numSeqs, 400),
    feedbackRows: ints(numTokens, 500),
  };
}

describe('InputBuffers', () => {
  it('hold the values of the last step in its sizes, always in the same memory', async () => {
    const largest = buffers.largest();
    const tensors = (): Tensor[] => [buffers.inputIds, buffers.positions, largest.slotMapping, largest.queryStartLoc, largest.seqLens, largest.seqRows];
    expect(tensors().map((t) => t.shape[0])).toEqual([6, 6, 6, 4, 3, 3]);
    const places = tensors().map((t) => t.storage);
    for (const [numTokens, numSeqs] of [[6, 3], [1, 1], [4, 2]] as const) {
      const step = inputs(numTokens, numSeqs, numTokens * 1000);
      const metadata = buffers.upload(step);
      expect(metadata).toMatchObject({ numTokens, numSeqs });
      const values = await Promise.all([buffers.inputIds, buffers.positions, metadata.slotMapping, metadata.queryStartLoc, metadata.seqLens, metadata.seqRows, buffers.feedbackRows].map((t) => t.read()));
      expect(values).toEqual(Object.values(step));
      expect(tensors().map((t) => t.storage)).toEqual(places);
    }
  });

  it('write blocks behind those a row has', async () => {
    buffers.writeBlocks(1, 0, [7, 8]);
    buffers.writeBlocks(2, 0, [1, 2, 3, 4]);
    buffers.writeBlocks(1, 2, [9, 10]);
    expect(await buffers.blockTable.read()).toEqual(new Int32Array(12)); // written with the next step
    buffers.upload(inputs(1, 1, 0));
    expect(await buffers.blockTable.read()).toEqual(Int32Array.of(0, 0, 0, 0, 7, 8, 9, 10, 1, 2, 3, 4));
  });

  it('refuse blocks that would reach into the next row, and steps larger than planned', async () => {
    await expectCode('ERR_KVASIR_NATIVE', () => buffers.writeBlocks(0, 3, [1, 2]));
    await expectCode('ERR_KVASIR_NATIVE', () => buffers.upload(inputs(MAX_TOKENS + 1, 1, 0)));
    await expectCode('ERR_KVASIR_NATIVE', () => buffers.writeBlocks(MAX_SEQS, 0, [1]));
  });
});
