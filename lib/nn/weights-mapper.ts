import type { LoadedWeight, ShardId } from './parameter';

/** Where a stacked weight goes: the substring that replaces the checkpoint's, and which part of the fused parameter it is. */
export type StackedTarget = readonly [name: string, shardId: ShardId];

export interface WeightsMapperRules {
  /** Whole names. */
  readonly origToNewRenaming?: Readonly<Record<string, string | null>>;
  /** Regular expressions; the first match is replaced ($1, .. as in String.replace). */
  readonly origToNewRegex?: readonly (readonly [RegExp, string | null])[];
  readonly origToNewSubstr?: Readonly<Record<string, string | null>>;
  /** Parts of fused layers: `{ '.q_proj.': ['.qkv_proj.', 'q'] }`. */
  readonly origToNewStacked?: Readonly<Record<string, StackedTarget>>;
  readonly origToNewPrefix?: Readonly<Record<string, string | null>>;
  readonly origToNewSuffix?: Readonly<Record<string, string | null>>;
}

/** A name in the model, with the part of a fused parameter when a stacked rule said so (else undefined). */
export interface MappedName {
  readonly name: string;
  readonly shardId: ShardId | undefined;
}

/**
 * Checkpoint names to names in the model (vllm WeightsMapper). Rules apply in the order renaming, regex, substring, stacked, prefix,
 * suffix; each matching rule once, at its first occurrence (a suffix at the end). A rule whose value is null drops the weight.
 */
export class WeightsMapper {
  constructor(readonly rules: WeightsMapperRules = {}) {}

  /** Both mappers' rules; those of `other` win where both have the same key. */
  merge(other: WeightsMapper): WeightsMapper {
    const [a, b] = [this.rules, other.rules];
    return new WeightsMapper({
      origToNewRenaming: { ...a.origToNewRenaming, ...b.origToNewRenaming },
      origToNewRegex: [...(a.origToNewRegex ?? []), ...(b.origToNewRegex ?? [])],
      origToNewSubstr: { ...a.origToNewSubstr, ...b.origToNewSubstr },
      origToNewStacked: { ...a.origToNewStacked, ...b.origToNewStacked },
      origToNewPrefix: { ...a.origToNewPrefix, ...b.origToNewPrefix },
      origToNewSuffix: { ...a.origToNewSuffix, ...b.origToNewSuffix },
    });
  }

  /** The name in the model, or null when the weight is dropped. */
  map(original: string): MappedName | null {
    const { origToNewRenaming: whole = {}, origToNewRegex = [], origToNewSubstr = {}, origToNewPrefix = {}, origToNewSuffix = {} } = this.rules;
    let name: string | null = Object.hasOwn(whole, original) ? whole[original]! : original;
    for (const [pattern, to] of origToNewRegex) {
      if (name === null) return null;
      const once = pattern.global || pattern.sticky ? new RegExp(pattern.source, pattern.flags.replace(/[gy]/g, '')) : pattern;
      if (once.test(name)) name = to === null ? null : name.replace(once, to);
    }
    if (name !== null) name = eachRule(name, origToNewSubstr, (at, from) => at.indexOf(from));
    const stacked = name === null ? null : this.stack(name);
    name = stacked === null ? null : eachRule(stacked.name, origToNewPrefix, (at, from) => (at.startsWith(from) ? 0 : -1));
    if (name !== null) name = eachRule(name, origToNewSuffix, (at, from) => (at.endsWith(from) ? at.length - from.length : -1));
    return name === null ? null : { name, shardId: stacked!.shardId };
  }

  /** The mapped name of each, without those that are dropped (vllm apply_list). */
  applyList(names: Iterable<string>): string[] {
    return Array.from(names, (name) => this.map(name)?.name ?? null).filter((name): name is string => name !== null);
  }

  /** The weights under their new names, without those that are dropped (vllm apply). */
  *apply(weights: Iterable<LoadedWeight>): Generator<LoadedWeight> {
    for (const weight of weights) {
      const mapped = this.map(weight.name);
      if (mapped) yield renameWeight(weight, { name: mapped.name, shardId: mapped.shardId ?? weight.shardId });
    }
  }

  private stack(name: string): MappedName {
    for (const [from, [to, shardId]] of Object.entries(this.rules.origToNewStacked ?? {})) {
      const at = name.indexOf(from);
      if (at >= 0) return { name: name.slice(0, at) + to + name.slice(at + from.length), shardId };
    }
    return { name, shardId: undefined };
  }
}

/** Applies every rule that matches once; `find` says where in the name. */
function eachRule(name: string, rules: Readonly<Record<string, string | null>>, find: (name: string, from: string) => number): string | null {
  let result = name;
  for (const [from, to] of Object.entries(rules)) {
    const at = find(result, from);
    if (at < 0) continue;
    if (to === null) return null;
    result = result.slice(0, at) + to + result.slice(at + from.length);
  }
  return result;
}

/** The same tensor under the name that it has in the model. */
export function renameWeight(weight: LoadedWeight, { name, shardId }: MappedName): LoadedWeight {
  return new RenamedWeight(weight, name, shardId);
}

/** A checkpoint tensor under another name; errors keep naming the tensor as the checkpoint does. */
class RenamedWeight implements LoadedWeight {
  constructor(
    private readonly original: LoadedWeight,
    readonly name: string,
    readonly shardId: ShardId | undefined,
  ) {}

  get originalName(): string {
    return this.original.originalName ?? this.original.name;
  }

  get dtype(): LoadedWeight['dtype'] {
    return this.original.dtype;
  }

  get shape(): readonly number[] {
    return this.original.shape;
  }

  narrow(dim: number, start: number, length: number): LoadedWeight {
    return new RenamedWeight(this.original.narrow(dim, start, length), this.name, this.shardId);
  }

  transpose(): LoadedWeight {
    return new RenamedWeight(this.original.transpose(), this.name, this.shardId);
  }

  copyInto(dest: Parameters<LoadedWeight['copyInto']>[0]): void {
    this.original.copyInto(dest);
  }
}
