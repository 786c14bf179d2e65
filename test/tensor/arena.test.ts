import fc from 'fast-check';
import { ARENA_ALIGNMENT, planArena, type Lifetime } from '../../lib/tensor/arena';

const align = (n: number): number => Math.ceil(n / ARENA_ALIGNMENT) * ARENA_ALIGNMENT;

const lifetime = fc
  .record({ bytes: fc.integer({ min: 0, max: 5000 }), first: fc.integer({ min: 0, max: 40 }), length: fc.integer({ min: 0, max: 12 }) })
  .map(({ bytes, first, length }): Lifetime => ({ bytes, first, last: first + length }));

function liveAtOnce(lifetimes: readonly Lifetime[]): number {
  const last = Math.max(0, ...lifetimes.map((l) => l.last));
  let most = 0;
  for (let op = 0; op <= last; op++) {
    const live = lifetimes.filter((l) => l.first <= op && op <= l.last);
    most = Math.max(most, live.reduce((sum, l) => sum + l.bytes, 0));
  }
  return most;
}

describe('planArena', () => {
  it('never gives two tensors that live at once the same bytes', () => {
    fc.assert(
      fc.property(fc.array(lifetime, { maxLength: 60 }), (lifetimes) => {
        const { offsets, bytes } = planArena(lifetimes);
        expect(offsets).toHaveLength(lifetimes.length);
        lifetimes.forEach((a, i) => {
          expect(offsets[i]! % ARENA_ALIGNMENT).toBe(0);
          expect(offsets[i]! + a.bytes).toBeLessThanOrEqual(bytes);
          for (let j = 0; j < i; j++) {
            const b = lifetimes[j]!;
            const together = a.first <= b.last && b.first <= a.last;
            const apart = offsets[i]! + a.bytes <= offsets[j]! || offsets[j]! + b.bytes <= offsets[i]!;
            if (together && !apart) throw new Error(`tensors ${j} and ${i} share memory while both live`);
          }
        });
        expect(bytes).toBeGreaterThanOrEqual(liveAtOnce(lifetimes));
        expect(bytes).toBeLessThanOrEqual(lifetimes.reduce((sum, l) => sum + align(l.bytes), 0));
      }),
      { numRuns: 300 },
    );
  });

  it('reuses memory: a chain of equal tensors needs two places', () => {
    const chain = Array.from({ length: 50 }, (_, i) => ({ bytes: 1000, first: i, last: i + 1 }));
    expect(planArena(chain).bytes).toBe(2 * align(1000));
  });

  it('puts a small tensor into the gap below a large one', () => {
    const { offsets, bytes } = planArena([
      { bytes: 4096, first: 0, last: 1 },
      { bytes: 2048, first: 2, last: 3 },
      { bytes: 1024, first: 2, last: 3 },
    ]);
    expect(offsets).toEqual([0, 0, 2048]);
    expect(bytes).toBe(4096);
  });

  it('of nothing takes nothing', () => {
    expect(planArena([])).toEqual({ offsets: [], bytes: 0 });
  });
});
