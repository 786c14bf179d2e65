import { Sampler } from '../../lib/sampling/sampler';
import { essence, expectNothingLeft, mixedWork, open, runTogether, TALES } from './workload';

afterEach(() => {
  jest.restoreAllMocks();
  expectNothingLeft();
});

test('results of a step that come after those of the next one change nothing', async () => {
  const work = mixedWork(12, 2048);
  const quiet = await open(TALES, { dtype: 'float32', asyncScheduling: false });
  const expected = await runTogether(quiet, work);
  await quiet.close();

  const { sample } = Sampler.prototype;
  let steps = 0;
  jest.spyOn(Sampler.prototype, 'sample').mockImplementation(async function (this: Sampler, ...args) {
    const late = ++steps % 2 === 1;
    const result = await sample.apply(this, args);
    if (late) await new Promise((resolve) => setTimeout(resolve, 10));
    return result;
  });
  const llm = await open(TALES, { dtype: 'float32', asyncScheduling: true, enablePrefixCaching: false });
  try {
    expect((await runTogether(llm, work)).map(essence)).toEqual(expected.map(essence));
    expect(steps).toBeGreaterThan(20);
  } finally {
    await llm.close();
  }
});
