import { KvasirError } from '../utils/errors';
import type { Module } from './module';
import type { LoadedWeight, Parameter, ShardId } from './parameter';

/** Buffers that old checkpoints carry and every model computes itself. */
const IGNORED = /(^|\.)(rotary_emb|rotary_pos_emb)\.(inv_freq|cos_cached|sin_cached)$/;

export interface LoadWeightsOptions {
  /** Checkpoint name -> name in the model; null drops the weight. */
  readonly rename?: (name: string) => string | null;
}

/**
 * Gives each checkpoint tensor to the parameter that claims its name. Every name must be claimed and every parameter
 * filled: what is not is listed in one error.
 * @throws KvasirError ERR_KVASIR_WEIGHTS
 */
export function loadWeights(model: Module, weights: Iterable<LoadedWeight>, options: LoadWeightsOptions = {}): void {
  const claims = new Map<string, { param: Parameter; shardId: ShardId }>();
  const parameters = [...model.parameters()];
  for (const param of parameters) for (const { name, shardId } of param.sources) claims.set(name, { param, shardId });
  const unexpected: string[] = [];
  const seen = new Set<string>();
  for (const weight of weights) {
    const name = options.rename ? options.rename(weight.name) : weight.name;
    if (name === null || IGNORED.test(name)) continue;
    const claim = claims.get(name);
    if (!claim) unexpected.push(weight.name);
    else {
      seen.add(name);
      claim.param.load(weight, claim.shardId);
    }
  }
  const missing = parameters.filter((p) => !p.isLoaded).flatMap((p) => missingNames(p, seen));
  if (unexpected.length || missing.length) throw new KvasirError('ERR_KVASIR_WEIGHTS', describeMismatch(unexpected, missing));
}

/** What a parameter still waits for: the parts of a fused one, else its own name. */
function missingNames(param: Parameter, seen: ReadonlySet<string>): string[] {
  const parts = param.sources.filter((s) => s.shardId !== null && !seen.has(s.name)).map((s) => s.name);
  return parts.length ? parts : [param.name];
}

function describeMismatch(unexpected: readonly string[], missing: readonly string[]): string {
  const list = (names: readonly string[]): string => names.slice(0, 20).join(', ') + (names.length > 20 ? `, and ${names.length - 20} more` : '');
  const parts: string[] = [];
  if (missing.length) parts.push(`${missing.length} missing: ${list(missing)}`);
  if (unexpected.length) parts.push(`${unexpected.length} that no parameter of the model expects: ${list(unexpected)}`);
  return `the checkpoint does not match the model; weights ${parts.join('; ')}`;
}
