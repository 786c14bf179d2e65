import * as path from 'node:path';
import type { AttentionMetadata } from '../attention/metadata';
import { withForwardContext } from '../attention/forward-context';
import type { VllmConfig } from '../config/vllm';
import type { ExecutorInfo, ModelRunnerOutput, PositionLogprobs, SchedulerOutput } from '../core/types';
import { buildModel, disposeModel, loadModel, weightBytes } from '../loader/model-loader';
import type { TextGenerationModel } from '../models/interfaces';
import { scatterElements, selectElements } from '../ops/copy';
import { Sampler, type SampleRequest, type SampleResult, type SampleRows } from '../sampling/sampler';
import type { Device } from '../tensor/device';
import type { Tensor } from '../tensor/tensor';
import { Workspace } from '../tensor/workspace';
import { KvasirError } from '../utils/errors';
import { CudaGraphRunner, cudaGraphSizes } from './cuda-graphs';
import { InputBatch, numTokensOf, type RequestState } from './input-batch';
import { InputBuffers } from './input-buffers';
import { KvCache, requestedBytes } from './kv-cache';
import { kvCacheGroups, type KvCacheGroup } from './kv-cache-groups';
import { MemoryBudget } from './memory-budget';
import { PromptLogprobs } from './prompt-logprobs';
import { MAX_UPDATES } from './request-tables';
import { runnableModel, type RunnableModel } from './runnable-model';
import { candidateCounts, drawFrom, StepLogits } from './step-logits';

/** A step that is queued. */
interface QueuedStep {
  readonly step: SchedulerOutput;
  /** Its requests in batch order, and which of them get a token. */
  readonly states: readonly RequestState[];
  readonly drawing: readonly number[];
  readonly results: Promise<readonly [SampleResult, PromptResults]>;
}

type PromptResults = ModelRunnerOutput['promptLogprobs'];

const NO_PROMPT_LOGPROBS: PromptResults = new Map();
const NO_ERRORS: ModelRunnerOutput['errors'] = new Map();
const NOTHING_SAMPLED: SampleResult = { tokenIds: [], logprobs: null };

/**
 * Runs steps of one model on one device (vllm GPUModelRunner): owns the weights, the KV cache, the workspaces and the
 * input buffers, and frees them in {@link dispose}.
 */
export class ModelRunner {
  private readonly model: TextGenerationModel;
  private readonly runnable: RunnableModel;
  private readonly groups: readonly KvCacheGroup[];
  private readonly batch: InputBatch;
  private readonly forwardSpace = new Workspace();
  private readonly stepLogits: StepLogits;
  private readonly promptLogprobs: PromptLogprobs;
  private inputs: InputBuffers | null = null;
  private sampler: Sampler | null = null;
  private kvCache: KvCache | null = null;
  /** int32 [maxNumSeqs]: token rows whose logits prompt logprobs need. */
  private promptRows: Tensor | null = null;
  private hiddenStates: Tensor | null = null;
  /** Settles when the results of the step queued last are taken in. */
  private collected: Promise<unknown> = Promise.resolve();
  /** Decode steps up to their logits, and those that draw their tokens too, by {@link candidateCounts}. */
  private readonly graphs: { readonly logits: CudaGraphRunner; readonly tokens: ReadonlyMap<number, CudaGraphRunner> } | null;

  constructor(
    private readonly vllmConfig: VllmConfig,
    private readonly device: Device,
  ) {
    this.model = buildModel(vllmConfig);
    this.runnable = runnableModel(this.model, vllmConfig);
    this.stepLogits = new StepLogits(vllmConfig, this.runnable);
    this.groups = kvCacheGroups(vllmConfig);
    this.batch = new InputBatch(vllmConfig.scheduler.maxNumSeqs, vllmConfig.cache.blockSize, this.groups.length);
    this.promptLogprobs = new PromptLogprobs(vllmConfig.scheduler.maxNumSeqs);
    const sizes = cudaGraphSizes(vllmConfig.scheduler.maxNumSeqs);
    const useGraphs = device.type === 'cuda' && !vllmConfig.model.enforceEager;
    const runner = (): CudaGraphRunner => new CudaGraphRunner(device, sizes);
    this.graphs = useGraphs ? { logits: runner(), tokens: new Map(candidateCounts(vllmConfig).map((k) => [k, runner()])) } : null;
  }

  /**
   * Loads the weights, plans the activations and takes all memory; resolves with the size of the KV pool.
   * @param agree from the blocks that fit here, how many there shall be: the same on all ranks
   */
  async initialize(onProgress: (loaded: number, total: number) => void, agree: (numBlocks: number) => Promise<number> = async (n) => n): Promise<ExecutorInfo> {
    const { scheduler, model, cache, device, parallel } = this.vllmConfig;
    const planFolder = device.cacheDir === null ? null : path.join(device.cacheDir, 'gemm');
    // Where ranks share a device, whatever waits for it waits for ranks that wait for this one; and cuBLASLt does when it times its
    // kernels and when it loads one.
    const alone = parallel.tensorParallelSize === 1 || parallel.launch !== undefined;
    if (this.device.type === 'cuda') this.device.configureGemm({ batchInvariant: device.batchInvariant, planFolder, useCublasLt: alone });
    const budget = MemoryBudget.of(this.vllmConfig, this.device);
    const { bytesRead } = await budget.take('weights', weightBytes(this.model), () => loadModel(this.model, this.vllmConfig, this.device, { onProgress }));
    const maxBlocksPerSeq = Math.ceil(model.maxModelLen / cache.blockSize);
    const numGroups = this.groups.length;
    budget.take('inputs', 4 * numGroups * scheduler.maxNumSeqs * maxBlocksPerSeq, () => {
      this.inputs = new InputBuffers(this.device, scheduler.maxNumBatchedTokens, scheduler.maxNumSeqs, maxBlocksPerSeq, numGroups);
      this.promptRows = this.device.empty([scheduler.maxNumSeqs], 'int32');
      this.sampler = new Sampler(this.device, scheduler.maxNumSeqs, model.vocabSize, this.inputs.tables);
    });
    this.plan(budget);
    const numBlocks = await agree(KvCache.fittingBlocks(this.vllmConfig, this.device, this.groups));
    const kvBytes = requestedBytes(this.vllmConfig, this.groups);
    this.kvCache = budget.take('kvCache', kvBytes, () => KvCache.allocate(this.vllmConfig, this.device, this.groups, numBlocks));
    return {
      numBlocks: this.kvCache.numBlocks,
      kvCacheGroups: this.groups.map(({ slidingWindow, numLayers }) => ({ slidingWindow, numLayers })),
      memory: {
        weights: weightBytes(this.model),
        kvCache: this.kvCache.bytes,
        activations: this.forwardSpace.bytes + this.stepLogits.bytes,
      },
      checkpointBytesRead: bytesRead,
    };
  }

  /** Runs one step. Everything is queued before the first await. */
  async execute(step: SchedulerOutput): Promise<ModelRunnerOutput> {
    this.updateRequests(step);
    if (step.totalNumScheduledTokens === 0) return { sampledTokenIds: [], logprobs: [], promptLogprobs: NO_PROMPT_LOGPROBS, errors: NO_ERRORS };
    const queued = this.queue(step);
    queued.results.catch(() => undefined); // heard of below, but perhaps only after the step before
    const output = this.finish(queued, this.collected);
    this.collected = output.catch(() => undefined);
    return output;
  }

  /** Captures a step that has just run, see {@link CudaGraphRunner.captureLast}. */
  captureLast(): void {
    this.graphs?.logits.captureLast();
    this.graphs?.tokens.forEach((graphs) => graphs.captureLast());
  }

  /** Frees everything; the device is closed by its owner. */
  dispose(): void {
    this.graphs?.logits.dispose();
    this.graphs?.tokens.forEach((graphs) => graphs.dispose());
    this.forwardSpace.dispose();
    this.stepLogits.dispose();
    this.kvCache?.dispose();
    this.sampler?.dispose();
    this.inputs?.dispose();
    this.promptRows?.disposeStorage();
    this.kvCache = this.sampler = this.inputs = this.promptRows = null;
    disposeModel(this.model);
  }

  private queue(step: SchedulerOutput): QueuedStep {
    const inputs = this.buffers();
    const states = this.batch.statesOf(step.scheduled);
    const size = this.graphSize(step, states);
    const host = size === null ? inputs.begin(step.totalNumScheduledTokens, states.length) : inputs.begin(size, size, this.graphUpdates(size));
    const drawing = this.batch.buildInputs(step, states, host);
    const attention = inputs.upload();
    if (size !== null) return { step, states, drawing, results: this.queueGraph(size, attention, states, drawing).then(withoutPromptLogprobs) };
    this.forwardSpace.run(() => this.forward(attention));
    const prompt = this.promptLogprobs.queue(step, states, (rows, targets, topK) => this.samplerOf().logprobsOf(this.promptLogits(rows), targets, topK));
    prompt?.catch(() => undefined); // if the next line throws, nobody awaits it; otherwise Promise.all hears of it
    const sampled = this.queueSampling(states, drawing);
    return { step, states, drawing, results: prompt ? Promise.all([sampled, prompt]) : sampled.then(withoutPromptLogprobs) };
  }

  /** The padded size of the CUDA graph for a step of one new token per request; null for other steps. */
  private graphSize(step: SchedulerOutput, states: readonly RequestState[]): number | null {
    if (!this.graphs || step.totalNumScheduledTokens !== states.length) return null;
    for (let i = 0; i < states.length; i++) if (step.scheduled[i]!.numComputedTokens + 1 < numTokensOf(states[i]!)) return null;
    return this.graphs.logits.paddedSize(states.length);
  }

  /** Room in a padded step for one new block in every group for each request, which is all that decoding can need. */
  private graphUpdates(size: number): number {
    return Math.min(MAX_UPDATES, size * this.groups.length);
  }

  /** Runs a step as a graph; tokens are drawn in it where drawing is all that its requests need. */
  private queueGraph(size: number, attention: AttentionMetadata, states: readonly RequestState[], drawing: readonly number[]): Promise<SampleResult> {
    const sampler = this.samplerOf();
    const at = this.sampleRows();
    const requests = this.specialRequests(states, drawing);
    const k = requests === null ? this.stepLogits.numCandidates(sampler, states, drawing) : 0;
    addPending(states, drawing);
    const logits = (): Tensor => {
      this.forwardSpace.run(() => this.forward(attention));
      return this.logits(this.buffers().get('logitRows'), k);
    };
    if (requests !== null) return sampler.sample(this.graphs!.logits.run(size, logits), at, requests);
    this.graphs!.tokens.get(k)!.run(size, () => {
      const result = logits();
      drawFrom(sampler, result, k, at);
      return result;
    });
    return sampler.readDrawn(drawing.length);
  }

  /** Samples for the requests whose last known token ran in this step. */
  private queueSampling(states: readonly RequestState[], drawing: readonly number[]): Promise<SampleResult> {
    // Without a token to draw the step must still be waited for, and its errors heard.
    if (drawing.length === 0) return this.device.synchronize().then(() => NOTHING_SAMPLED);
    const sampler = this.samplerOf();
    const requests = this.specialRequests(states, drawing);
    const k = requests === null ? this.stepLogits.numCandidates(sampler, states, drawing) : 0;
    addPending(states, drawing);
    const logits = this.logits(this.buffers().get('logitRows'), k);
    if (requests !== null) return sampler.sample(logits, this.sampleRows(), requests);
    drawFrom(sampler, logits, k, this.sampleRows());
    return sampler.readDrawn(drawing.length);
  }

  /** What the sampler must know of requests when drawing is not all that they need; else null. */
  private specialRequests(states: readonly RequestState[], drawing: readonly number[]): SampleRequest[] | null {
    const sampler = this.samplerOf();
    if (!sampler.hasSpecial) return null;
    const requests = drawing.map((index) => {
      const state = states[index]!;
      return { row: state.row, numOutputTokens: numTokensOf(state) - state.numPromptTokens };
    });
    return sampler.isPlain(requests) ? null : requests;
  }

  private sampleRows(): SampleRows {
    const inputs = this.buffers();
    return { rows: inputs.get('sampleRows'), positions: inputs.get('samplePositions') };
  }

  private plan(budget: MemoryBudget): void {
    const attention = this.buffers().largest();
    this.forwardSpace.plan(() => [this.forward(attention)]);
    this.stepLogits.plan(this.hiddenStates!, this.buffers().get('logitRows'));
    budget.take('activations', this.forwardSpace.bytes, () => this.forwardSpace.materialize(this.device));
    budget.take('logits', this.stepLogits.bytes, () => this.stepLogits.materialize(this.device));
  }

  private forward(attention: AttentionMetadata): Tensor {
    const inputs = this.buffers();
    const inputIds = inputs.get('inputIds');
    scatterElements(inputs.tables.words, inputs.get('updateIndices'), inputs.get('updateValues'));
    selectElements(inputIds, this.samplerOf().lastTokens, inputs.get('feedbackRows'));
    return (this.hiddenStates = withForwardContext({ attention }, () => this.runnable.forward(inputIds, inputs.get('positions'))));
  }

  /** Logits [rows.length, vocabSize] of rows of hidden states, or k candidates of each rank. */
  private logits(rows: Tensor, k = 0): Tensor {
    return this.stepLogits.run(this.hiddenStates!, rows, k);
  }

  private promptLogits(tokens: readonly number[]): Tensor {
    const rows = this.promptRows!;
    rows.rebind(rows.storage, 0, [tokens.length], [1]);
    rows.write(Int32Array.from(tokens));
    return this.logits(rows);
  }

  private updateRequests(step: SchedulerOutput): void {
    const { state } = this.samplerOf();
    for (const id of step.removedRequestIds) {
      const row = this.batch.remove(id);
      if (row !== null) state.remove(row);
    }
    for (const data of step.newRequests) {
      const request = this.batch.add(data);
      state.add(request.row, data.samplingParams, data.tokenIds, data.numPromptTokens);
    }
    for (const { requestId, newBlockIds } of step.scheduled) {
      if (newBlockIds.length === 0) continue;
      const request = this.batch.get(requestId);
      this.buffers().tables.writeBlocks(request.row, request.blockIds.length / this.groups.length, newBlockIds);
      for (const id of newBlockIds) request.blockIds.push(id);
    }
  }

  /** A step without logprobs may have its results before an earlier one with them; tokens are appended in step order. */
  private async finish(queued: QueuedStep, before: Promise<unknown>): Promise<ModelRunnerOutput> {
    await before;
    const [sampled, promptLogprobs] = await queued.results;
    return this.collect(queued, sampled, promptLogprobs);
  }

  private collect({ step, states, drawing }: QueuedStep, sampled: SampleResult, promptLogprobs: PromptResults): ModelRunnerOutput {
    const sampledTokenIds = new Array<number>(states.length).fill(-1);
    const logprobs = new Array<PositionLogprobs | null>(states.length).fill(null);
    let errors: Map<string, string> | null = null;
    for (let k = 0; k < drawing.length; k++) {
      const index = drawing[k]!;
      const state = states[index]!;
      const tokenId = sampled.tokenIds[k]!;
      state.numPendingTokens--;
      if (tokenId < 0) {
        (errors ??= new Map()).set(step.scheduled[index]!.requestId, 'the logits of the request hold NaN, or no token is possible');
        continue;
      }
      sampledTokenIds[index] = tokenId;
      if (sampled.logprobs !== null) logprobs[index] = sampled.logprobs[k] ?? null;
      state.tokenIds.push(tokenId); // of a request that left meanwhile: nobody looks at it any more
    }
    return { sampledTokenIds, logprobs, promptLogprobs, errors: errors ?? NO_ERRORS };
  }

  private buffers(): InputBuffers {
    if (!this.inputs) throw new KvasirError('ERR_KVASIR_CLOSED', 'the model runner is closed');
    return this.inputs;
  }

  private samplerOf(): Sampler {
    if (!this.sampler) throw new KvasirError('ERR_KVASIR_CLOSED', 'the model runner is closed');
    return this.sampler;
  }
}

function withoutPromptLogprobs(sampled: SampleResult): readonly [SampleResult, PromptResults] {
  return [sampled, NO_PROMPT_LOGPROBS];
}

/** The tokens that these requests get are known on the device only, until the step's results are collected. */
function addPending(states: readonly RequestState[], drawing: readonly number[]): void {
  for (let k = 0; k < drawing.length; k++) states[drawing[k]!]!.numPendingTokens++;
}
