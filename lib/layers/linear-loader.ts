import type { LoadedWeight, Parameter, ShardId, WeightLoader } from '../nn/parameter';
import type { ParameterLayout } from '../quantization/method';
import { numElements } from '../tensor/tensor';
import { KvasirError } from '../utils/errors';
import { inUnits, unitsOver, type Span } from './shard';

/** One logical matrix of a linear layer: its outputs in the checkpoint, and among this rank's rows. */
export interface PartShard {
  /** Null for a layer of one matrix. */
  readonly id: ShardId;
  /** Outputs of the whole model, as the checkpoint has them. */
  readonly whole: number;
  readonly source: Span;
  /** May be larger than `source`: the rest is padding. */
  readonly dest: Span;
}

/** What one rank holds of a linear layer. */
export interface LinearShards {
  readonly parts: readonly PartShard[];
  readonly input: { readonly whole: number; readonly span: Span };
}

/** The shards of a layer of one matrix. */
export function singlePart(outputs: { whole: number; span: Span }, input: { whole: number; span: Span }): LinearShards {
  return { parts: [{ id: null, whole: outputs.whole, source: outputs.span, dest: { start: 0, size: outputs.span.size } }], input };
}

/** All of something that is not cut. */
export const uncut = (whole: number): { whole: number; span: Span } => ({ whole, span: { start: 0, size: whole } });

/** A loader of this rank's part of tensors with one layout: the shard math of all linear layers. */
export function shardLoader(prefix: string, shards: LinearShards, layout: ParameterLayout): WeightLoader {
  const loader = new ShardLoader(prefix, shards, layout);
  return (param, loaded, shardId) => loader.load(param, loaded, shardId);
}

class ShardLoader {
  constructor(
    private readonly prefix: string,
    private readonly shards: LinearShards,
    private readonly layout: ParameterLayout,
  ) {
    if (shards.parts.length > 1 && layout.outputDim === undefined && !layout.perPart)
      throw new KvasirError('ERR_KVASIR_LAYER', `${prefix}: a tensor of a fused layer needs an outputDim or perPart, or its parts would overwrite one another`);
  }

  load(param: Parameter, loaded: LoadedWeight, shardId: ShardId): void {
    const { parts } = this.shards;
    if (shardId === null && parts.length > 1) return this.loadFused(param, loaded);
    const index = parts.findIndex((part) => part.id === shardId);
    if (index < 0) throw new KvasirError('ERR_KVASIR_LAYER', `${this.prefix}: shard id ${String(shardId)} is out of range, expected ${this.describeIds()}`);
    this.loadPart(param, loaded, index);
  }

  private describeIds(): string {
    const { parts } = this.shards;
    if (typeof parts[0]!.id === 'number') return `0..${parts.length - 1}`;
    return parts.map(({ id }) => (id === null ? 'none' : `"${id}"`)).join(', ');
  }

  /** A checkpoint tensor with all parts in it is cut by whole sizes; one scale for all of them is copied to each. */
  private loadFused(param: Parameter, loaded: LoadedWeight): void {
    const { parts } = this.shards;
    const { perPart, outputDim, outputUnit = 1 } = this.layout;
    const isArray = perPart && loaded.shape.length === param.shape.length && loaded.shape[0] === parts.length;
    if (isArray) return parts.forEach((_, i) => this.loadPart(param, loaded.narrow(0, i, 1), i));
    if (perPart || this.isScalar(loaded)) return parts.forEach((_, i) => this.loadPart(param, loaded, i));
    const total = parts.reduce((sum, { whole }) => sum + whole, 0);
    const elements = Math.ceil(total / outputUnit);
    if (loaded.shape[outputDim!] !== elements) {
      const sum = `${parts.map((part) => part.whole).join(' + ')} outputs in ${elements} rows along dimension ${outputDim}`;
      throw new KvasirError('ERR_KVASIR_WEIGHTS', `${loaded.name} has shape [${loaded.shape.join(', ')}], expected ${sum} for ${param.name}`);
    }
    let start = 0;
    parts.forEach(({ whole }, i) => {
      const span = inUnits({ start, size: whole }, outputUnit, `${param.name}, part ${i}`);
      this.loadPart(param, loaded.narrow(outputDim!, span.start, span.size), i);
      start += whole;
    });
  }

  private loadPart(param: Parameter, loaded: LoadedWeight, index: number): void {
    const { outputDim, outputUnit = 1, perPart } = this.layout;
    const { whole, source, dest } = this.shards.parts[index]!;
    if (this.isScalar(loaded)) return param.fillRows(loaded, dest.start, dest.size);
    const mine = this.cutInputs(param, loaded);
    if (perPart) return param.copyRow(mine, index);
    if (outputDim === undefined) return param.copyShard(mine);
    const what = `${param.name}, outputs per rank`;
    const from = inUnits(source, outputUnit, what);
    const to = inUnits({ start: dest.start, size: source.size }, outputUnit, what);
    param.copyShard(takeSpan(param, mine, outputDim, Math.ceil(whole / outputUnit), from), outputDim, to.start, to.size);
    if (source.size < dest.size) param.finishLoading(); // the rest is padding
  }

  private cutInputs(param: Parameter, loaded: LoadedWeight): LoadedWeight {
    const { inputDim, inputUnit = 1, inputsCovered } = this.layout;
    const { whole, span } = this.shards.input;
    if (inputDim === undefined) return loaded;
    const elements = inputsCovered ? unitsOver(span, inputUnit) : inUnits(span, inputUnit, `${param.name}, inputs per rank`);
    return takeSpan(param, loaded, inputDim, Math.ceil(whole / inputUnit), elements);
  }

  private isScalar(loaded: LoadedWeight): boolean {
    return this.layout.scalarFills === true && numElements(loaded.shape) === 1;
  }
}

/**
 * A span of a checkpoint tensor along `dim`, which must have `whole` elements there: a larger tensor would be cut unnoticed.
 * @throws KvasirError ERR_KVASIR_WEIGHTS
 */
export function takeSpan(param: Parameter, loaded: LoadedWeight, dim: number, whole: number, span: Span): LoadedWeight {
  if (loaded.shape[dim] !== whole)
    throw new KvasirError('ERR_KVASIR_WEIGHTS', `${loaded.name} has shape [${loaded.shape.join(', ')}], expected ${whole} along dimension ${dim} for ${param.name}`);
  return span.start === 0 && span.size === whole ? loaded : loaded.narrow(dim, span.start, span.size);
}
