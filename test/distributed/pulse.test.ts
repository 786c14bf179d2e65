import { PulseMonitor } from '../../lib/distributed/pulse';

/** Looks every 250 ms from `from` to `to`, as the heartbeat thread does. */
function look(pulse: PulseMonitor, from: number, to: number): { rank: number; at: number }[] {
  const found: { rank: number; at: number }[] = [];
  for (let now = from; now <= to; now += 250) {
    for (const { rank } of pulse.silent(now)) {
      found.push({ rank, at: now });
      pulse.forget(rank);
    }
  }
  return found;
}

describe('PulseMonitor', () => {
  test('a rank that is silent is found, and only that one', () => {
    const pulse = new PulseMonitor(4000, 0);
    pulse.heard(1, 0);
    pulse.heard(2, 0);
    const found: { rank: number; at: number }[] = [];
    for (let now = 0; now <= 10000; now += 500) {
      pulse.heard(2, now);
      found.push(...look(pulse, now, now + 250));
    }
    expect(found).toEqual([{ rank: 1, at: 4250 }]);
  });

  test('a rank that is not heard yet, or was forgotten, is not missed', () => {
    const pulse = new PulseMonitor(4000, 0);
    pulse.heard(1, 0);
    expect(pulse.knows(1)).toBe(true);
    pulse.forget(1);
    expect(pulse.knows(1)).toBe(false);
    expect(look(pulse, 0, 20000)).toEqual([]);
  });

  test('after a time in which this process itself stood still, the others get the whole time again', () => {
    const pulse = new PulseMonitor(4000, 0);
    pulse.heard(1, 0);
    expect(look(pulse, 0, 1000)).toEqual([]);
    expect(look(pulse, 60000, 64000)).toEqual([]);
    expect(look(pulse, 64250, 70000)).toEqual([{ rank: 1, at: 64250 }]);
  });
});
