import { Device, liveStorages } from '../../lib/tensor/device';
import { inScope, TemporaryScope } from '../../lib/tensor/scope';
import { tensorTable } from '../../lib/tensor/table';
import { scatterElements } from '../../lib/ops/copy';
import { InputBuffers } from '../../lib/worker/input-buffers';
import { MAX_UPDATES } from '../../lib/worker/request-tables';
import { INPUT_NAMES, type InputName } from '../../lib/worker/step-inputs';
import { expectCode } from '../fixtures/expect-error';

const MAX_TOKENS = 6;
const MAX_SEQS = 3;
const BLOCKS = 1000;

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

/** Fills every input of a step with values of its own; what the tensors must then hold. */
function fill(numTokens: number, numSeqs: number, numLogits: number): Map<InputName, ArrayLike<number | bigint>> {
  const inputs = buffers.begin(numTokens, numSeqs);
  inputs.numLogits = numLogits;
  const expected = new Map<InputName, ArrayLike<number | bigint>>();
  INPUT_NAMES.forEach((name, k) => {
    if (name === 'updateIndices' || name === 'updateValues') return;
    const size = inputs.sizeOf(name);
    const values = Array.from({ length: size }, (_, i) => 1000 * numTokens + 100 * k + i);
    if (name === 'slotMapping') {
      const slots = BigInt64Array.from(values, (v) => BigInt(v) << 33n);
      inputs.words.set(new Int32Array(slots.buffer), inputs.at[name]);
      expected.set(name, slots);
    } else {
      inputs.words.set(values, inputs.at[name]);
      expected.set(name, Int32Array.from(values));
    }
  });
  return expected;
}

/** What a step does first on the device. */
function applyUpdates(): void {
  inScope(new TemporaryScope(device), () => scatterElements(buffers.tables.words, buffers.get('updateIndices'), buffers.get('updateValues')));
}

describe('the inputs of a step', () => {
  it('have the values and sizes of the last step, at addresses that follow from its sizes alone', async () => {
    const places = new Map<string, number[]>();
    for (const [numTokens, numSeqs, numLogits] of [[6, 3, 2], [1, 1, 1], [4, 2, 0], [6, 3, 3], [1, 1, 1]] as const) {
      const expected = fill(numTokens, numSeqs, numLogits);
      expect(buffers.upload()).toMatchObject({ numTokens, numSeqs });
      for (const [name, values] of expected) expect([name, await buffers.get(name).read()]).toEqual([name, values]);
      const key = `${numTokens} ${numSeqs}`;
      const offsets = INPUT_NAMES.map((name) => buffers.get(name).byteOffset);
      expect(offsets).toEqual(places.get(key) ?? offsets);
      expect(offsets.every((offset) => offset % 16 === 0)).toBe(true);
      places.set(key, offsets);
    }
  });

  it('a step larger than planned is refused', async () => {
    await expectCode('ERR_KVASIR_NATIVE', () => buffers.begin(MAX_TOKENS + 1, 1));
    await expectCode('ERR_KVASIR_NATIVE', () => buffers.begin(1, MAX_SEQS + 1));
    await expectCode('ERR_KVASIR_NATIVE', () => buffers.begin(1, 1, MAX_UPDATES + 1));
  });
});

describe('several KV cache groups', () => {
  it('have slots and tables of their own; everything else is shared', async () => {
    const groups = new InputBuffers(device, MAX_TOKENS, MAX_SEQS, BLOCKS, 3);
    try {
      groups.tables.writeBlocks(1, 2, [11, 12, 13, 21, 22, 23]);
      await expectCode('ERR_KVASIR_NATIVE', () => groups.tables.writeBlocks(0, BLOCKS - 1, [1, 2, 3, 4, 5, 6]));
      groups.tables.flush();
      const places: number[][] = [];
      for (const numTokens of [4, 6, 4]) {
        const inputs = groups.begin(numTokens, 2);
        inputs.words.fill(0);
        for (let group = 0; group < 3; group++) for (let i = 0; i < numTokens; i++) inputs.words[inputs.slotsAt(group) + 2 * i] = 100 * group + i;
        const first = groups.upload();
        expect(first.groups).toHaveLength(3);
        expect(first.groups![0]!.slotMapping).toBe(first.slotMapping);
        for (const [group, metadata] of first.groups!.entries()) {
          expect({ ...metadata, slotMapping: null, blockTable: null }).toEqual({ ...first, slotMapping: null, blockTable: null, groups: undefined });
          expect(await metadata.slotMapping.read()).toEqual(BigInt64Array.from({ length: numTokens }, (_, i) => BigInt(100 * group + i)));
          const table = (await metadata.blockTable.read()) as Int32Array;
          expect(Array.from(table.subarray(BLOCKS, BLOCKS + 5))).toEqual([0, 0, 11 + group, 21 + group, 0]);
          expect(table.filter((id) => id !== 0)).toHaveLength(2);
        }
        places.push(first.groups!.map(({ slotMapping }) => slotMapping.byteOffset));
      }
      expect(places[2]).toEqual(places[0]);
    } finally {
      groups.dispose();
    }
  });
});

describe('the tables of requests', () => {
  const blocks = async (row: number, count: number): Promise<number[]> => Array.from(((await buffers.tables.blockTable.read()) as Int32Array).subarray(row * BLOCKS, row * BLOCKS + count));

  it('are changed by the next step, and by nothing before', async () => {
    buffers.tables.writeBlocks(1, 0, [7, 8]);
    buffers.tables.writeBlocks(2, 0, [1, 2, 3, 4]);
    buffers.tables.writeBlocks(1, 2, [9, 10]);
    expect(await blocks(1, 4)).toEqual([0, 0, 0, 0]);
    fill(1, 1, 1);
    buffers.upload();
    applyUpdates();
    expect([await blocks(0, 3), await blocks(1, 5), await blocks(2, 5)]).toEqual([[0, 0, 0], [7, 8, 9, 10, 0], [1, 2, 3, 4, 0]]);
    fill(1, 1, 1);
    buffers.upload();
    expect(buffers.get('updateIndices').shape).toEqual([0]);
  });

  it('sampling state goes with the blocks', async () => {
    const words = Int32Array.from({ length: 10 }, (_, i) => 50 + i);
    buffers.tables.writeSampling(1, words);
    buffers.tables.writeBlocks(0, BLOCKS - 1, [5]);
    buffers.tables.flush();
    const all = (await buffers.tables.words.read()) as Int32Array;
    const at = (offset: number): number => all[offset / 4]!;
    const { params, seeds } = buffers.tables;
    expect(Array.from({ length: 8 }, (_, i) => at(params.byteOffset + 4 * (params.strides[0]! + i)))).toEqual(Array.from(words.subarray(0, 8)));
    expect([0, 1].map((i) => at(seeds.byteOffset + 4 * (seeds.strides[0]! + i)))).toEqual([58, 59]);
    expect(Array.from(all).filter((word) => word !== 0)).toHaveLength(11);
    expect(at(4 * (BLOCKS - 1))).toBe(5);
  });

  it.each([0, 1, 4, MAX_UPDATES])('more changes than a step has room for (%i) go ahead of it', async (room) => {
    const ids = (row: number): number[] => Array.from({ length: BLOCKS - row }, (_, i) => 1 + row + i);
    for (const row of [0, 1, 2]) buffers.tables.writeBlocks(row, 0, ids(row));
    const inputs = buffers.begin(1, 1, room);
    inputs.words.fill(0);
    buffers.upload();
    expect(buffers.tables.numPending).toBe(0);
    applyUpdates();
    for (const row of [0, 1, 2]) expect(await blocks(row, BLOCKS)).toEqual([...ids(row), ...new Array<number>(row).fill(0)]);
  });

  it('refuse blocks that would reach into the next row', async () => {
    await expectCode('ERR_KVASIR_NATIVE', () => buffers.tables.writeBlocks(0, BLOCKS - 1, [1, 2]));
    await expectCode('ERR_KVASIR_NATIVE', () => buffers.tables.writeBlocks(MAX_SEQS, 0, [1]));
  });
});
