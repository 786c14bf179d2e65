import { KvasirError } from '../utils/errors';
import { Module } from './module';
import type { LoadedWeight, Parameter, ShardId } from './parameter';
import { PPMissingLayer } from './pipeline';
import { renameWeight, WeightsMapper, type MappedName, type StackedTarget } from './weights-mapper';

/** Buffers that old checkpoints carry and every model computes itself. */
const IGNORED = /(^|\.)(rotary_emb|rotary_pos_emb)\.(inv_freq|cos_cached|sin_cached)$/;

/** A row of vLLM's stacked_params_mapping: name of the fused parameter, name in the checkpoint, part. */
export type StackedParam = readonly [paramName: string, weightName: string, shardId: ShardId];

export interface LoadWeightsOptions {
  /** Checkpoint name -> name in the model; null drops the weight. Applied before the mapper. */
  readonly rename?: (name: string) => string | null;
  readonly mapper?: WeightsMapper;
  /**
   * Parts of fused layers by substring. The library's own layers know the names of their parts (`partNames`) and need none;
   * this is for parameters of one's own.
   */
  readonly stackedParamsMapping?: readonly StackedParam[];
  /** Weights (as mapped) that are passed over: by the beginning of the name, or anywhere in it. */
  readonly skipPrefixes?: readonly string[];
  readonly skipSubstrs?: readonly string[];
  /** Weights that are no error when no parameter takes them. */
  readonly ignoreUnexpectedPrefixes?: readonly string[];
  readonly ignoreUnexpectedSuffixes?: readonly string[];
}

/** A module that loads its own part of the checkpoint, e.g. a language model inside a composite one. */
interface LoadsItself extends Module {
  loadWeights(weights: Iterable<LoadedWeight>): unknown;
}

/** Names that nobody took, of the outermost loader that is running: it reports for those inside. */
let unexpectedOfOutermost: string[] | null = null;

/**
 * Gives checkpoint tensors to the modules below one (vllm AutoWeightsLoader): to a module's own `loadWeights` where it has one, else to
 * the parameter that claims the name. Names are full: a module's prefix is part of them at every depth.
 */
export class AutoWeightsLoader {
  private readonly claims = new Map<string, { param: Parameter; shardId: ShardId }>();
  private readonly byName = new Map<string, Parameter>();
  private readonly selfLoading: LoadsItself[] = [];
  /** Prefixes of layers that other stages of a pipeline have. */
  private readonly elsewhere: string[] = [];
  private readonly mapper: WeightsMapper;

  constructor(
    private readonly module: Module,
    private readonly options: LoadWeightsOptions = {},
  ) {
    this.collect(module);
    const stacked = Object.fromEntries((options.stackedParamsMapping ?? []).map(([to, from, id]): [string, StackedTarget] => [from, [to, id]]));
    this.mapper = (options.mapper ?? new WeightsMapper()).merge(new WeightsMapper({ origToNewStacked: stacked }));
  }

  /**
   * Loads, and returns the names (in the model) that were. Every weight must be taken and, when no other loader is running around this
   * one, every parameter filled: what is not is listed in one error.
   * @throws KvasirError ERR_KVASIR_WEIGHTS; ERR_KVASIR_LAYER for two parameters with one name
   */
  loadWeights(weights: Iterable<LoadedWeight>): Set<string> {
    const outermost = unexpectedOfOutermost === null;
    const unexpected = (unexpectedOfOutermost ??= []);
    try {
      const loaded = this.dispatch(weights, unexpected);
      if (outermost) reportMismatch(unexpected, missingWeights(this.module));
      return loaded;
    } finally {
      if (outermost) unexpectedOfOutermost = null;
    }
  }

  private dispatch(weights: Iterable<LoadedWeight>, unexpected: string[]): Set<string> {
    const loaded = new Set<string>();
    let run: { module: LoadsItself; weights: LoadedWeight[] } | null = null;
    const finishRun = (): void => {
      if (run) for (const name of asNames(run.module.loadWeights(run.weights))) loaded.add(name);
      run = null;
    };
    for (const weight of weights) {
      const mapped = this.map(weight);
      if (!mapped) continue;
      const module = this.selfLoading.find(({ prefix }) => mapped.name.startsWith(`${prefix}.`));
      if (run && run.module !== module) finishRun();
      if (module) (run ??= { module, weights: [] }).weights.push(renameWeight(weight, mapped));
      else this.give(weight, mapped, loaded, unexpected);
    }
    finishRun();
    return loaded;
  }

  private map(weight: LoadedWeight): MappedName | null {
    const { rename, skipPrefixes = [], skipSubstrs = [] } = this.options;
    const renamed = rename ? rename(weight.name) : weight.name;
    const mapped = renamed === null ? null : this.mapper.map(renamed);
    if (!mapped || IGNORED.test(mapped.name)) return null;
    if (this.elsewhere.some((p) => mapped.name.startsWith(p))) return null;
    if (skipPrefixes.some((p) => mapped.name.startsWith(p)) || skipSubstrs.some((s) => mapped.name.includes(s))) return null;
    return { name: mapped.name, shardId: mapped.shardId ?? weight.shardId };
  }

  private give(weight: LoadedWeight, { name, shardId }: MappedName, loaded: Set<string>, unexpected: string[]): void {
    const param = shardId === undefined ? undefined : this.byName.get(name);
    const claim = param ? { param, shardId: shardId! } : this.claims.get(name);
    if (claim) {
      loaded.add(name);
      claim.param.load(weight, claim.shardId);
    } else if (!this.mayIgnore(name)) unexpected.push(weight.originalName ?? weight.name);
  }

  private mayIgnore(name: string): boolean {
    const { ignoreUnexpectedPrefixes = [], ignoreUnexpectedSuffixes = [] } = this.options;
    // GPTQ writes a bias (of zeros) for layers that have none.
    const gptqBias = name.endsWith('.bias') && this.claims.has(`${name.slice(0, -'bias'.length)}qweight`);
    return gptqBias || ignoreUnexpectedPrefixes.some((p) => name.startsWith(p)) || ignoreUnexpectedSuffixes.some((s) => name.endsWith(s));
  }

  private claim(name: string, param: Parameter, shardId: ShardId): void {
    const other = this.claims.get(name);
    if (other && other.param !== param)
      throw new KvasirError('ERR_KVASIR_LAYER', `two parameters of the model are the tensor "${name}" of the checkpoint: every layer needs its full, unique prefix`);
    this.claims.set(name, { param, shardId });
  }

  /** Parameters that are given to here; below a module that loads itself, that module gives. */
  private collect(root: Module): void {
    for (const module of root.modules()) {
      if (module instanceof PPMissingLayer) this.elsewhere.push(`${module.prefix}.`);
      if (module !== root && module.prefix !== '' && loadsItself(module)) this.selfLoading.push(module);
    }
    for (const param of root.parameters()) {
      this.byName.set(param.name, param);
      for (const { name, shardId } of param.sources) this.claim(name, param, shardId);
    }
  }
}

/**
 * Gives each checkpoint tensor to the parameter that claims its name: what most models' `loadWeights` is.
 * @throws KvasirError ERR_KVASIR_WEIGHTS listing all names that are missing or that nothing claims
 */
export function loadWeights(model: Module, weights: Iterable<LoadedWeight>, options: LoadWeightsOptions = {}): Set<string> {
  return new AutoWeightsLoader(model, options).loadWeights(weights);
}

/**
 * That a model's `loadWeights`, which may be its author's own loop, filled every parameter.
 * @throws KvasirError ERR_KVASIR_WEIGHTS
 */
export function checkAllLoaded(model: Module): void {
  reportMismatch([], missingWeights(model));
}

function loadsItself(module: Module): module is LoadsItself {
  return typeof (module as Partial<LoadsItself>).loadWeights === 'function';
}

function asNames(result: unknown): Iterable<string> {
  return result instanceof Set ? (result as Set<string>) : [];
}

/** What parameters still wait for: the parts of a fused one, else its own name. */
function missingWeights(model: Module): string[] {
  const missing = Array.from(model.parameters()).filter((param) => !param.isLoaded);
  return missing.flatMap((param) => {
    const parts = param.sources.filter(({ shardId }) => shardId !== null && !param.hasLoaded(shardId));
    // One tensor of the checkpoint may be all parts of a fused layer.
    return parts.length ? [...new Set(parts.map(({ name }) => name))] : [param.name];
  });
}

function reportMismatch(unexpected: readonly string[], missing: readonly string[]): void {
  if (unexpected.length === 0 && missing.length === 0) return;
  const list = (names: readonly string[]): string => names.slice(0, 20).join(', ') + (names.length > 20 ? `, and ${names.length - 20} more` : '');
  const parts: string[] = [];
  if (missing.length) parts.push(`${missing.length} missing: ${list(missing)}`);
  if (unexpected.length) parts.push(`${unexpected.length} that no parameter of the model expects: ${list(unexpected)}`);
  throw new KvasirError('ERR_KVASIR_WEIGHTS', `the checkpoint does not match the model; weights ${parts.join('; ')}`);
}
