/**
 * The contract with the addon: what native/addon exports. Ops take rows of the tensor table ({@link Row}); an absent
 * optional tensor is row -1. Shapes and meanings stand beside the declarations in native/ops/<family>.h.
 */
declare const rowBrand: unique symbol;
export type Row = number & { readonly [rowBrand]: true };
export type OptionalRow = Row | -1;

/** One row per op; an op has the same name from here down to the kernel. */
export interface NativeOps {
  // norm
  rmsNorm(out: Row, x: Row, weight: Row, eps: number, gemma: boolean): void;
  addRmsNorm(out: Row, x: Row, residual: Row, weight: Row, eps: number, gemma: boolean): void;
  layerNorm(out: Row, x: Row, weight: Row, bias: OptionalRow, eps: number): void;
  addLayerNorm(out: Row, x: Row, residual: Row, weight: Row, bias: OptionalRow, eps: number): void;
  add(out: Row, x: Row, y: Row): void;
  // copy
  copy(out: Row, x: Row): void;
  gatherRows(out: Row, x: Row, indices: Row): void;
  scatterElements(out: Row, indices: Row, values: Row): void;
  selectElements(out: Row, x: Row, indices: Row): void;
  fill(out: Row, value: number): void;
  fillRandom(out: Row, seed: number, scale: number): void;
  // rope
  rope(positions: Row, q: Row, k: OptionalRow, cosSin: Row, isNeox: boolean): void;
  normRope(positions: Row, q: Row, k: Row, qWeight: Row, kWeight: Row, cosSin: Row, eps: number, gemma: boolean, isNeox: boolean): void;
  // activation
  siluAndMul(out: Row, x: Row): void;
  geluAndMul(out: Row, x: Row): void;
  geluTanhAndMul(out: Row, x: Row): void;
  silu(out: Row, x: Row): void;
  gelu(out: Row, x: Row): void;
  geluTanh(out: Row, x: Row): void;
  relu(out: Row, x: Row): void;
  scale(out: Row, x: Row, factor: number): void;
  softCap(out: Row, x: Row, cap: number): void;
  // gemm
  packLinear(weight: Row): void;
  linear(out: Row, x: Row, weight: Row, bias: OptionalRow): void;
  // quant
  repackInt4(out: Row, source: Row, format: number): void;
  unpackZeros(out: Row, source: Row, format: number): void;
  repackInt8(out: Row, source: Row, format: number): void;
  packInt4(weight: Row, scales: Row, zeros: OptionalRow): void;
  packInt8(weight: Row, scales: Row): void;
  packFp8(weight: Row): void;
  linearInt4(out: Row, x: Row, weight: Row, scales: Row, zeros: OptionalRow, bias: OptionalRow, dynamicActivation: boolean): void;
  linearInt8(out: Row, x: Row, weight: Row, scales: Row, bias: OptionalRow, dynamicActivation: boolean): void;
  linearFp8(
    out: Row,
    x: Row,
    weight: Row,
    scales: Row,
    bias: OptionalRow,
    blockN: number,
    blockK: number,
    activation: number,
    inputScale: number,
  ): void;
  quantizeFp8(weight: Row, scales: Row, source: Row): void;
  // moe
  moeRouting(outWeights: Row, outExperts: Row, logits: Row, renormalize: boolean): void;
  moeAlign(outBlocks: Row, experts: Row, numExperts: number): void;
  moeLinear(out: Row, x: Row, weights: Row, blocks: Row): void;
  moeCombine(out: Row, x: Row, weights: Row, experts: Row, numExperts: number): void;
  // cache, attention
  kvCacheWrite(kvCache: Row, k: Row, v: Row, slotMapping: Row, kScale: number, vScale: number): void;
  pagedAttention(
    out: Row,
    q: Row,
    kvCache: Row,
    blockTable: Row,
    seqRows: Row,
    seqLens: Row,
    queryStartLoc: Row,
    scale: number,
    slidingWindow: number,
    logitsSoftCap: number,
    alibiSlopes: OptionalRow,
    sinks: OptionalRow,
    kScale: number,
    vScale: number,
  ): void;
  // embedding
  embedding(out: Row, weight: Row, ids: Row, vocabStart: number): void;
  // sampling
  samplingCountPrompt(counts: Row, row: number, ids: Row): void;
  samplingCountOutput(counts: Row, row: number, ids: Row): void;
  samplingPenalties(logits: Row, counts: Row, params: Row, rows: Row): void;
  samplingBias(logits: Row, logitRow: number, ids: Row, values: Row): void;
  samplingMask(logits: Row, logitRow: number, ids: Row, keep: boolean): void;
  samplingLogprobs(outLogprob: Row, outRank: Row, topIds: OptionalRow, topLogprobs: OptionalRow, logits: Row, targets: Row): void;
  sample(outIds: Row, logits: Row, params: Row, seeds: Row, positions: Row, rows: Row, counts: OptionalRow): void;
  samplingTop(out: Row, logits: Row, firstId: number, numValid: number): void;
  sampleTop(outIds: Row, candidates: Row, params: Row, seeds: Row, positions: Row, rows: Row): void;
  // comm
  allReduce(communicator: number, x: Row): void;
  allGather(communicator: number, out: Row, x: Row): void;
  reduceScatter(communicator: number, out: Row, x: Row): void;
  broadcast(communicator: number, x: Row, root: number): void;
}

/** Streams and memory. Ids are small integers, valid in the environment (thread) that made them. */
export interface NativeDevice {
  setTable(table: Int32Array): void;
  /** ordinal: which CUDA device; 0 without it. */
  createStream(device: number, threads: number, ordinal?: number): number;
  destroyStream(stream: number): void;
  /** Zeroed memory; throws ERR_KVASIR_OUT_OF_MEMORY. */
  allocate(stream: number, bytes: number): number;
  /** Freed after the work queued so far. */
  release(storage: number): void;
  liveStorages(): { count: number; bytes: number };
  /** Settles after the work queued so far; rejects with the first exception since the last fence. */
  synchronize(stream: number): Promise<void>;
  /** Takes a copy of `data` now, stores it in stream order. */
  write(row: Row, data: NodeJS.TypedArray): void;
  read(row: Row): Promise<ArrayBuffer>;
  loadFromFile(out: Row, fd: number, byteOffset: number, dtype: number, dims: readonly number[], strides: readonly number[]): number;
  cpuInfo(): { isa: string; bestIsa: string };
  setIsa(level: number): string;
  setProfiling(stream: number, on: boolean): void;
  profile(stream: number): Record<string, { calls: number; seconds: number }>;
  /** Two float64: bytes per second that the stream's threads read, and multiply-add operations per second (2 per multiply-add). */
  probeMachine(stream: number, bytes: number): Promise<ArrayBuffer>;
  /** Throws a C++ exception at the call (0) or in queued work (1). */
  raise(stream: number, where: 0 | 1): void;
}

/** Nodes of a CUDA graph by kind. A straight line of kernels, each after the one before, is what the driver launches fastest. */
export interface GraphInfo {
  readonly nodes: number;
  readonly kernels: number;
  readonly copies: number;
  readonly memsets: number;
  readonly others: number;
  readonly edges: number;
  /** Edges that let a kernel start before its predecessor ends. */
  readonly early: number;
  readonly straightLine: boolean;
}

/** What the addon knows of CUDA; graphs and memory exist only in builds with the backend. */
export interface NativeCuda {
  cudaInfo(): {
    built: boolean;
    deviceCount: number;
    /** Why no device can be used; empty when one can. */
    problem: string;
    devices: { name: string; computeCapability: string; totalBytes: number; multiprocessors: number }[];
  };
  deviceMemory(stream: number): { free: number; total: number };
  beginCapture(stream: number): void;
  endCapture(stream: number): number;
  /** Ends a capture that failed; never throws for what went wrong in it. */
  discardCapture(stream: number): void;
  graphInfo(stream: number, graph: number): GraphInfo;
  launchGraph(stream: number, graph: number): void;
  destroyGraph(stream: number, graph: number): void;
  configureGemm(stream: number, useCublasLt: boolean, cublasLtPath: string, batchInvariant: boolean, tune: boolean, planFolder: string): void;
  gemmReport(stream: number): string;
  /** Whether cuBLASLt can be loaded, its version and path, or where it was looked for. */
  findCublasLt(): { found: boolean; report: string };
}

export type CommunicatorKind = 'local' | 'gloo' | 'nccl';

/** Whether a library can be loaded, and where it is or was looked for. */
export interface LibraryReport {
  readonly found: boolean;
  readonly report: string;
}

/** Ranks' ends of tensor-parallel groups, by id. */
export interface NativeComm {
  /** first: the communicator of rank 0 of a local group, or -1. */
  createCommunicator(stream: number, kind: CommunicatorKind, rank: number, size: number, host: string, timeoutMs: number, first: number): number;
  communicatorAddress(communicator: number): ArrayBuffer;
  /** addresses: of all ranks, by rank. */
  connectCommunicator(communicator: number, addresses: readonly ArrayBuffer[]): Promise<void>;
  /** What waits for other ranks, and what comes later, fails with ERR_KVASIR_RANK. */
  abortCommunicator(communicator: number): void;
  /** Freed after the work queued so far. */
  destroyCommunicator(communicator: number): void;
  commInfo(): { gloo: LibraryReport; nccl: LibraryReport };
}

export type NativeBinding = NativeOps & NativeDevice & NativeCuda & NativeComm;
