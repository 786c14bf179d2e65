import type { AttentionMetadata } from '../attention/metadata';
import { withForwardContext } from '../attention/forward-context';
import type { VllmConfig } from '../config/vllm';
import type { ExecutorInfo, ModelRunnerOutput, PositionLogprobs, SchedulerOutput } from '../core/types';
import { buildModel, disposeModel, loadModel, weightBytes } from '../loader/model-loader';
import type { TextGenerationModel } from '../models/interfaces';
import { gatherRows, selectElements } from '../ops/copy';
import { Sampler, type SampleRequest, type SampleResult } from '../sampling/sampler';
import type { Device } from '../tensor/device';
import type { Tensor } from '../tensor/tensor';
import { Workspace } from '../tensor/workspace';
import { KvasirError } from '../utils/errors';
import { CudaGraphRunner, cudaGraphSizes } from './cuda-graphs';
import { InputBatch, type RequestState } from './input-batch';
import { InputBuffers } from './input-buffers';
import { KvCache } from './kv-cache';
import { PromptLogprobs } from './prompt-logprobs';

/** Sampling of a step that is queued: which of its requests get a token, and their states then. */
interface QueuedSampling {
  readonly indices: readonly number[];
  readonly states: readonly RequestState[];
  readonly result: Promise<SampleResult>;
}

/** Tokens of a request, those included that steps in flight are sampling. */
function numTokens(request: RequestState): number {
  return request.tokenIds.length + request.numPendingTokens;
}

/**
 * Runs steps of one model on one device (vllm GPUModelRunner): owns the weights, the KV cache, the workspaces and the
 * input buffers, and frees them in {@link dispose}.
 */
export class ModelRunner {
  private readonly model: TextGenerationModel;
  private readonly batch: InputBatch;
  private readonly forwardSpace = new Workspace();
  private readonly logitsSpace = new Workspace();
  private readonly promptLogprobs: PromptLogprobs;
  private inputs: InputBuffers | null = null;
  private sampler: Sampler | null = null;
  private kvCache: KvCache | null = null;
  private logitRows: Tensor | null = null;
  private hiddenStates: Tensor | null = null;
  /** logitRows holds 0, 1, ... up to here; 0 when it holds something else. */
  private identityRows = 0;
  /** Settles when the results of the step queued last are taken in. */
  private collected: Promise<unknown> = Promise.resolve();
  private readonly graphs: CudaGraphRunner | null;

  constructor(
    private readonly vllmConfig: VllmConfig,
    private readonly device: Device,
  ) {
    this.model = buildModel(vllmConfig);
    this.batch = new InputBatch(vllmConfig.scheduler.maxNumSeqs, vllmConfig.cache.blockSize);
    this.promptLogprobs = new PromptLogprobs(vllmConfig.scheduler.maxNumSeqs);
    const useGraphs = device.type === 'cuda' && !vllmConfig.model.enforceEager;
    this.graphs = useGraphs ? new CudaGraphRunner(device, cudaGraphSizes(vllmConfig.scheduler.maxNumSeqs)) : null;
  }

  /** Loads the weights, plans the activations and takes all memory; resolves with the size of the KV pool. */
  async initialize(onProgress: (loaded: number, total: number) => void): Promise<ExecutorInfo> {
    const { scheduler, model, cache } = this.vllmConfig;
    await loadModel(this.model, this.vllmConfig, this.device, { onProgress });
    const maxBlocksPerSeq = Math.ceil(model.maxModelLen / cache.blockSize);
    this.inputs = new InputBuffers(this.device, scheduler.maxNumBatchedTokens, scheduler.maxNumSeqs, maxBlocksPerSeq);
    this.logitRows = this.device.empty([scheduler.maxNumSeqs], 'int32');
    this.sampler = new Sampler(this.device, scheduler.maxNumSeqs, model.vocabSize);
    this.plan(this.inputs);
    this.kvCache = KvCache.allocate(this.vllmConfig, this.device);
    return {
      numBlocks: this.kvCache.numBlocks,
      memory: {
        weights: weightBytes(this.model),
        kvCache: this.kvCache.bytes,
        activations: this.forwardSpace.bytes + this.logitsSpace.bytes,
      },
    };
  }

  /** Runs one step. Everything is queued before the first await. */
  async execute(step: SchedulerOutput): Promise<ModelRunnerOutput> {
    this.updateRequests(step);
    if (step.totalNumScheduledTokens === 0) return { sampledTokenIds: [], logprobs: [], promptLogprobs: new Map(), errors: new Map() };
    const graphLogits = this.decodeInGraph(step);
    if (!graphLogits) {
      const attention = this.buffers().upload(this.batch.buildInputs(step));
      this.forwardSpace.run(() => this.forward(attention));
    }
    const promptLogprobs = this.promptLogprobs.queue(step, this.batch, (rows, targets, topK) =>
      this.samplerOf().logprobsOf(this.logitsAt(rows), targets, topK),
    );
    promptLogprobs.catch(() => undefined); // if the next line throws, nobody awaits it; otherwise Promise.all hears of it
    const sampling = this.queueSampling(step, graphLogits);
    const results = Promise.all([promptLogprobs, sampling.result]);
    results.catch(() => undefined); // heard of below, but perhaps only after the step before
    // A step without logprobs may have its results before an earlier one with them; tokens are appended in step order.
    const output = this.collected.then(() => results).then(([prompt, sampled]) => this.collect(step, sampling, sampled, prompt));
    this.collected = output.catch(() => undefined);
    return output;
  }

  /** Frees everything; the device is closed by its owner. */
  dispose(): void {
    this.graphs?.dispose();
    this.forwardSpace.dispose();
    this.logitsSpace.dispose();
    this.kvCache?.dispose();
    this.sampler?.dispose();
    this.inputs?.dispose();
    this.logitRows?.disposeStorage();
    this.kvCache = this.sampler = this.inputs = this.logitRows = null;
    disposeModel(this.model);
  }

  /** A step of one new token per request as a CUDA graph; its logits, or null when the step is of another kind. */
  private decodeInGraph(step: SchedulerOutput): Tensor | null {
    const numSeqs = step.scheduled.length;
    if (!this.graphs || step.totalNumScheduledTokens !== numSeqs) return null;
    if (step.scheduled.some((s) => s.numComputedTokens + 1 < numTokens(this.batch.get(s.requestId)))) return null;
    const size = this.graphs.paddedSize(numSeqs);
    if (size === null) return null;
    const attention = this.buffers().upload(this.batch.buildInputs(step, size));
    if (this.identityRows !== size) this.writeLogitRows(Array.from({ length: size }, (_, i) => i));
    this.logitRows!.rebind(this.logitRows!.storage, 0, [size], [1]);
    this.identityRows = size;
    return this.graphs.run(size, () => {
      this.forwardSpace.run(() => this.forward(attention));
      return this.logitsSpace.run(() => this.logits());
    });
  }

  private plan(inputs: InputBuffers): void {
    const attention = inputs.largest();
    this.forwardSpace.plan(() => [this.forward(attention)]);
    this.logitsSpace.plan(() => [this.logits()]);
    this.forwardSpace.materialize(this.device);
    this.logitsSpace.materialize(this.device);
  }

  private forward(attention: AttentionMetadata): Tensor {
    const { inputIds, positions, feedbackRows } = this.buffers();
    selectElements(inputIds, this.samplerOf().lastTokens, feedbackRows);
    return (this.hiddenStates = withForwardContext({ attention }, () => this.model.forward(inputIds, positions)));
  }

  /** Logits [logitRows, vocabSize] of the rows of hidden states that logitRows names. */
  private logits(): Tensor {
    return this.model.computeLogits(gatherRows(this.hiddenStates!, this.logitRows!));
  }

  private logitsAt(tokens: readonly number[]): Tensor {
    this.writeLogitRows(tokens);
    return this.logitsSpace.run(() => this.logits());
  }

  private writeLogitRows(tokens: readonly number[]): void {
    const rows = this.logitRows!;
    rows.rebind(rows.storage, 0, [tokens.length], [1]);
    rows.write(Int32Array.from(tokens));
    this.identityRows = 0;
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
      this.buffers().writeBlocks(request.row, request.blockIds.length, newBlockIds);
      request.blockIds.push(...newBlockIds);
    }
  }

  /** Samples for the requests whose last known token ran in this step. */
  private queueSampling(step: SchedulerOutput, graphLogits: Tensor | null): QueuedSampling {
    const indices: number[] = [];
    const lastTokens: number[] = [];
    const requests: SampleRequest[] = [];
    const states: RequestState[] = [];
    let token = 0;
    step.scheduled.forEach((s, i) => {
      token += s.numScheduledTokens;
      const request = this.batch.get(s.requestId);
      const position = numTokens(request);
      if (s.numComputedTokens + s.numScheduledTokens < position) return;
      indices.push(i);
      lastTokens.push(token - 1);
      requests.push({ row: request.row, position, numOutputTokens: position - request.numPromptTokens });
      states.push(request);
      request.numPendingTokens++;
    });
    // Without a token to draw the step must still be waited for, and its errors heard.
    if (requests.length === 0) return { indices, states, result: this.device.synchronize().then(() => ({ tokenIds: [], logprobs: [] })) };
    return { indices, states, result: this.samplerOf().sample(graphLogits ?? this.logitsAt(lastTokens), requests) };
  }

  private collect(
    step: SchedulerOutput,
    { indices, states }: QueuedSampling,
    sampled: SampleResult,
    promptLogprobs: ReadonlyMap<string, readonly PositionLogprobs[]>,
  ): ModelRunnerOutput {
    const sampledTokenIds = new Array<number>(step.scheduled.length).fill(-1);
    const logprobs = new Array<PositionLogprobs | null>(step.scheduled.length).fill(null);
    const errors = new Map<string, string>();
    indices.forEach((index, i) => {
      const { requestId } = step.scheduled[index]!;
      const tokenId = sampled.tokenIds[i]!;
      states[i]!.numPendingTokens--;
      if (tokenId < 0) {
        errors.set(requestId, 'the logits of the request hold NaN, or no token is possible');
        return;
      }
      sampledTokenIds[index] = tokenId;
      logprobs[index] = sampled.logprobs[i] ?? null;
      states[i]!.tokenIds.push(tokenId); // of a request that left meanwhile: nobody looks at it any more
    });
    return { sampledTokenIds, logprobs, promptLogprobs, errors };
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
