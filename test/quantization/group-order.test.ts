import fc from 'fast-check';
import { cutInputOrder, inputOrder, permuteInputs } from '../../lib/quantization/group-order';
import { expectCode } from '../fixtures/expect-error';

const groups = (...of: number[]): Int32Array => Int32Array.from(of);

describe('inputs by group', () => {
  it('are put beside each other, in their order', () => {
    expect(inputOrder('l', groups(1, 0, 1, 0), 1, 2)).toEqual({ order: groups(1, 3, 0, 2), storedOf: null });
    expect(inputOrder('l', groups(0, 0, 1, 1), 1, 2)).toBeNull();
  });

  it.each([
    ['a group has too many', groups(0, 0, 0, 1), 1],
    ['a group is missing', groups(0, 0, 2, 2), 1],
    ['parts of a fused layer differ', groups(0, 1, 0, 1, 1, 0, 1, 0), 2],
  ])('are refused when %s', (_name, groupOf, parts) => expectCode('ERR_KVASIR_QUANTIZATION', () => inputOrder('l', groupOf, parts, 2)));

  it('of one rank are filled up, group by group', () => {
    const { order, storedOf } = cutInputOrder('l', groups(5, 1, 1, 5, 1, 1, 1, 1), 6, 4);
    expect(order).toEqual(groups(1, 2, 4, 5, 6, 7, -1, -1, 0, 3, -1, -1));
    expect(storedOf).toEqual(groups(1, 1, 5));
  });

  it.each([-1, 6])('of one rank are refused in group %d of 6', (group) => expectCode('ERR_KVASIR_QUANTIZATION', () => cutInputOrder('l', groups(0, group), 6, 4)));

  it('of one rank: every input once, among its own group', () => {
    fc.assert(
      fc.property(fc.array(fc.nat(5), { minLength: 1, maxLength: 40 }), fc.constantFrom(4, 8), (groupOf, step) => {
        const { order, storedOf } = cutInputOrder('l', Int32Array.from(groupOf), 6, step);
        expect(order.length).toBe(storedOf!.length * step);
        const inputs = Array.from(order).filter((input) => input >= 0);
        expect(inputs.sort((a, b) => a - b)).toEqual(groupOf.map((_, i) => i));
        order.forEach((input, at) => input >= 0 && expect(groupOf[input]).toBe(storedOf![Math.floor(at / step)]));
      }),
    );
  });
});

describe('packed words', () => {
  it.each([true, false])('take the order, with zeros for nothing (words of a row together: %p)', (rowsFirst) => {
    // Two rows of four bytes, 0x11 to 0x14 and 0x21 to 0x24; one word each, so that both layouts are the same.
    const words = groups(0x14131211, 0x24232221);
    const order = groups(3, -1, 0, 0, 2, 1, -1, -1);
    const [low, high] = [[0x11110014, 0x21210024], [0x00001213, 0x00002223]] as const;
    const expected = rowsFirst ? [low[0], high[0], low[1], high[1]] : [...low, ...high];
    expect([...permuteInputs(words, order, { rows: 2, perWord: 4, rowsFirst })]).toEqual(expected);
  });
});
