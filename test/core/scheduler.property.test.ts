import fc from 'fast-check';
import { GROUPS, Harness, ONE_GROUP, scenarios } from './fixtures/scheduler-harness';
import type { Scenario } from './fixtures/scheduler-harness';

describe('scheduler, block pool and worker together', () => {
  it.each([
    ['one group of layers', ONE_GROUP, 400, 100_000],
    ['groups with sliding windows', GROUPS, 500, 150_000],
  ])('give what a naive model gives, in very many random operations: %s', (_, windows, numRuns, least) => {
    let numOperations = 0;
    let numHits = 0;
    let numPreemptions = 0;
    const run = (s: Scenario): void => {
      const harness = new Harness(s);
      for (const operation of s.operations) harness.perform(operation);
      harness.finish();
      numOperations += harness.numOperations;
      numHits += harness.numHits;
      numPreemptions += harness.scheduler.stats().numPreemptions;
    };
    fc.assert(fc.property(scenarios(windows), run), { numRuns });
    // The random cases must really have met what they are for.
    expect(numOperations).toBeGreaterThan(least);
    expect(numHits).toBeGreaterThan(1000);
    expect(numPreemptions).toBeGreaterThan(1000);
  }, 180_000);
});
