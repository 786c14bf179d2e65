import fc from 'fast-check';
import { sha256BlockHash } from '../../lib/core/block-hash';
import type { Scheduler } from '../../lib/core/scheduler';
import type { EngineCoreOutput, EngineCoreRequest, ModelRunnerOutput, SchedulerOutput } from '../../lib/core/types';
import { coreRequest, createScheduler } from './fixtures/requests';
import type { SchedulerOverrides } from './fixtures/requests';
import { logprobsOf, nextToken, SimulatedWorker } from './fixtures/simulated-worker';

const VOCAB = 7;
const EOS = 3;
const STOP = 5;

interface Expected {
  tokens: number[];
  finishReason: string;
  stopReason: number | null;
}

/** What the request must give, from its prompt alone: no scheduler, no blocks. */
function naiveModel(request: EngineCoreRequest, maxTotalTokens: number): Expected {
  const { samplingParams: params, promptTokenIds } = request;
  const all = [...promptTokenIds];
  for (;;) {
    const token = nextToken(all, VOCAB, params.seed);
    all.push(token);
    const tokens = all.slice(promptTokenIds.length);
    const mayStop = tokens.length >= params.minTokens;
    if (mayStop && params.eosTokenIds.includes(token)) return { tokens, finishReason: 'stop', stopReason: null };
    if (mayStop && params.stopTokenIds.includes(token)) return { tokens, finishReason: 'stop', stopReason: token };
    if (tokens.length === params.maxTokens || all.length === maxTotalTokens) return { tokens, finishReason: 'length', stopReason: null };
  }
}

const scenario = fc.record({
  blockSize: fc.integer({ min: 1, max: 4 }),
  capacityBlocks: fc.integer({ min: 4, max: 24 }),
  maxModelLen: fc.integer({ min: 8, max: 40 }),
  maxNumBatchedTokens: fc.integer({ min: 1, max: 40 }),
  maxNumSeqs: fc.integer({ min: 1, max: 8 }),
  enableChunkedPrefill: fc.boolean(),
  enablePrefixCaching: fc.boolean(),
  policy: fc.constantFrom('fcfs' as const, 'priority' as const),
  asyncScheduling: fc.boolean(),
  hashLength: fc.constantFrom(0, 1, 44),
  /** Steps planned ahead of their results. */
  depth: fc.constantFrom(1, 1, 2, 3),
  operations: fc.array(fc.nat({ max: 0x3fffffff }), { minLength: 1, maxLength: 1200, size: 'max' }),
});
type Scenario = typeof scenario extends fc.Arbitrary<infer T> ? T : never;

/** Small integers out of one operation's number. */
function digits(seed: number): (bound: number) => number {
  let rest = seed;
  return (bound) => {
    rest = (Math.imul(rest, 1103515245) + 12345) >>> 0;
    return (rest >>> 8) % bound;
  };
}

interface Live {
  request: EngineCoreRequest;
  order: number;
  tokens: number[];
  numPromptLogprobs: number;
  failing: boolean;
}

/** Drives a scheduler and a simulated worker, and compares everything that comes out with the naive model. */
class Harness {
  numOperations = 0;
  numHits = 0;
  readonly scheduler: Scheduler;
  private readonly worker: SimulatedWorker;
  private readonly live = new Map<string, Live>();
  private readonly inFlight: { step: SchedulerOutput; out: ModelRunnerOutput }[] = [];
  private readonly maxTotalTokens: number;
  private readonly policy: string;
  private nextOrder = 0;
  private lastAdmitted = -1;

  constructor(private readonly s: Scenario) {
    const numBlocks = s.capacityBlocks + 1;
    const budget = s.enableChunkedPrefill ? s.maxNumBatchedTokens : Math.max(s.maxNumBatchedTokens, s.maxModelLen);
    const hashFn = (key: Uint8Array): string => sha256BlockHash(key).slice(0, s.hashLength);
    const overrides: SchedulerOverrides = { ...s, numBlocks, maxNumBatchedTokens: budget, hashFn };
    this.scheduler = createScheduler(overrides);
    this.worker = new SimulatedWorker({ numBlocks, blockSize: s.blockSize, vocabSize: VOCAB, seedOf: (params) => params.seed });
    this.maxTotalTokens = Math.min(s.maxModelLen, s.capacityBlocks * s.blockSize + 1);
    this.policy = s.policy;
  }

  perform(operation: number): void {
    const random = digits(operation);
    const kind = random(100);
    if (kind < 32) this.add(random);
    else if (kind < 40) this.abort(random);
    else if (kind < 42) this.reset();
    else if (kind < 44) this.fail(random);
    else this.step();
  }

  add(random: (bound: number) => number): void {
    this.numOperations++;
    // Prompts begin with one of three common prefixes, so that blocks are shared.
    const family = random(3);
    const shared = random(12);
    const prompt = Array.from({ length: shared }, (_, i) => (i * (family + 2) + family) % VOCAB);
    for (let n = random(10) + (shared === 0 ? 1 : 0); n > 0; n--) prompt.push(random(VOCAB));
    const salt = random(3);
    const maxTokens = 1 + random(12);
    const params = {
      // The KV of the simulated worker depends on the seed: sharing across salts would be noticed.
      seed: salt, maxTokens, minTokens: random(maxTokens + 1), logprobs: random(4) === 0 ? 0 : null, promptLogprobs: random(6) === 0 ? 0 : null,
      eosTokenIds: random(2) === 0 ? [EOS] : [], stopTokenIds: random(2) === 0 ? [STOP, EOS] : [],
    };
    // Few ids: one that was aborted is soon taken again, also while its step is in flight.
    const request = coreRequest(`r${random(40)}`, prompt, {
      params, priority: random(3), arrivalTime: random(5), ...(salt === 0 ? {} : { cacheSalt: `s${salt}` }),
    });
    const fits = prompt.length + 1 <= Math.min(this.s.maxModelLen, this.s.capacityBlocks * this.s.blockSize);
    const expectedCode = this.live.has(request.requestId) ? 'ERR_KVASIR_PARAMS' : fits ? null : 'ERR_KVASIR_PROMPT_TOO_LONG';
    let code: string | null = null;
    try {
      this.scheduler.addRequest(request);
    } catch (error) {
      code = (error as { code: string }).code;
    }
    equal(code, expectedCode, 'code of addRequest');
    if (code === null) this.live.set(request.requestId, { request, order: this.nextOrder++, tokens: [], numPromptLogprobs: 0, failing: false });
  }

  abort(random: (bound: number) => number): void {
    this.numOperations++;
    const ids = [...this.live.keys()];
    const id = ids[random(Math.max(1, ids.length))] ?? 'nobody';
    const outputs = this.scheduler.abortRequests([id, 'nobody']);
    equal(outputs.map((o) => [o.requestId, o.finishReason]), this.live.has(id) ? [[id, 'abort']] : [], 'outputs of abort');
    this.live.delete(id);
    this.worker.failing.delete(id);
    this.scheduler.kvCache.pool.checkInvariants();
  }

  reset(): void {
    this.numOperations++;
    const pool = this.scheduler.kvCache.pool;
    const idle = pool.numFreeBlocks === pool.numUsableBlocks;
    equal(this.scheduler.resetPrefixCache(), idle, 'resetPrefixCache');
    if (idle) equal(pool.numCachedBlocks, 0, 'cached blocks after a reset');
  }

  fail(random: (bound: number) => number): void {
    const ids = [...this.live.keys()];
    const id = ids[random(Math.max(1, ids.length))];
    if (id === undefined || this.inFlight.length > 0) return;
    this.numOperations++;
    this.live.get(id)!.failing = true;
    this.worker.failing.add(id);
  }

  /** Plans and runs a step; takes the result of the oldest one when enough are in flight. */
  step(): void {
    this.numOperations++;
    const step = this.scheduler.schedule();
    this.checkStep(step);
    this.inFlight.push({ step, out: this.worker.run(step) });
    if (this.inFlight.length >= this.s.depth) this.update();
  }

  update(): void {
    const { step, out } = this.inFlight.shift()!;
    for (const output of this.scheduler.updateFromOutput(step, out)) this.checkOutput(output);
    this.scheduler.kvCache.pool.checkInvariants();
    equal(this.scheduler.hasUnfinishedRequests(), this.live.size > 0, 'hasUnfinishedRequests');
    equal(this.scheduler.numRunning + this.scheduler.numWaiting, this.live.size, 'running + waiting');
  }

  /** Runs to the end; a request may be recomputed after preemptions, but a bound on the steps must hold. */
  finish(): void {
    let bound = 200;
    for (const { request } of this.live.values()) bound += 20 * (request.promptTokenIds.length + request.samplingParams.maxTokens);
    for (; this.scheduler.hasUnfinishedRequests(); bound--) {
      if (bound === 0) throw new Error('no end in sight');
      this.step();
    }
    while (this.inFlight.length > 0) this.update();
    equal(this.live.size, 0, 'requests without an end');
    this.worker.run(this.scheduler.schedule());
    equal(this.worker.requests.size, 0, 'requests the worker still holds');
    const pool = this.scheduler.kvCache.pool;
    pool.checkInvariants();
    equal(pool.numFreeBlocks, pool.numUsableBlocks, 'free blocks at the end');
    equal(this.scheduler.stats().kvCacheUsage, 0, 'usage at the end');
    this.numHits = this.scheduler.stats().prefixCacheHits;
    if (!this.s.enablePrefixCaching) equal(this.numHits, 0, 'hits with prefix caching off');
  }

  private checkStep(step: SchedulerOutput): void {
    const budget = Math.max(this.s.maxNumBatchedTokens, this.s.enableChunkedPrefill ? 0 : this.s.maxModelLen);
    if (step.totalNumScheduledTokens > budget) throw new Error('over budget');
    if (step.scheduled.length > this.s.maxNumSeqs) throw new Error('more than maxNumSeqs requests');
    if (this.inFlight.length === 0 && this.live.size > 0 && step.totalNumScheduledTokens === 0) throw new Error('a step does nothing');
    if (this.policy !== 'fcfs') return;
    const orders = step.scheduled.map((s) => this.live.get(s.requestId)!.order);
    equal(orders, orders.slice().sort((a, b) => a - b), 'order within a step');
    for (const { requestId } of step.newRequests) {
      const { order } = this.live.get(requestId)!;
      // Everybody who came earlier was admitted before: only a request that was preempted may be older than the newest.
      const overtaken = [...this.live.values()].some((l) => l.order < order && l.order > this.lastAdmitted);
      if (overtaken) throw new Error(`${requestId} was admitted before a request that came earlier`);
      this.lastAdmitted = Math.max(this.lastAdmitted, order);
    }
  }

  private checkOutput(output: EngineCoreOutput): void {
    const live = this.live.get(output.requestId)!;
    const { request, tokens } = live;
    tokens.push(...output.newTokenIds);
    if (request.samplingParams.logprobs !== null && output.finishReason !== 'error') {
      equal(output.newLogprobs ?? [], output.newTokenIds.map(logprobsOf), 'logprobs');
    }
    const prompt = output.newPromptLogprobs ?? [];
    equal(prompt, request.promptTokenIds.slice(live.numPromptLogprobs + 1, live.numPromptLogprobs + 1 + prompt.length).map(logprobsOf), 'prompt logprobs');
    live.numPromptLogprobs += prompt.length;
    const expected = naiveModel(request, this.maxTotalTokens);
    equal(tokens, expected.tokens.slice(0, tokens.length), 'tokens');
    if (output.finishReason === null) return;
    if (output.finishReason === 'error') equal(live.failing, true, 'failing');
    else equal({ tokens, finishReason: output.finishReason, stopReason: output.stopReason }, { ...expected }, 'end');
    if (request.samplingParams.promptLogprobs !== null && output.finishReason !== 'error') {
      equal(live.numPromptLogprobs, request.promptTokenIds.length - 1, 'number of prompt logprobs');
    }
    this.live.delete(output.requestId);
    this.worker.failing.delete(output.requestId);
  }
}

/** Deep equality without the cost of `expect` in an inner loop. */
function equal(received: unknown, expected: unknown, what: string): void {
  const [a, b] = [JSON.stringify(received), JSON.stringify(expected)];
  if (a !== b) throw new Error(`${what}: expected ${b}, received ${a}`);
}

describe('scheduler, block pool and worker together', () => {
  it('give what a naive model gives, in at least 10^5 random operations', () => {
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
    fc.assert(fc.property(scenario, run), { numRuns: 400 });
    // The random cases must really have met what they are for.
    expect(numOperations).toBeGreaterThan(100_000);
    expect(numHits).toBeGreaterThan(1000);
    expect(numPreemptions).toBeGreaterThan(1000);
  });
});
