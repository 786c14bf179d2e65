import { KvasirError } from '../utils/errors';
import { ConstantBuffer, Parameter } from './parameter';

/**
 * A part of a model. `prefix` is its full dotted name in the checkpoint (""for the root). Children, parameters and
 * buffers are simply properties (or lists or plain records of them): the tree is found by looking at them, and names come from the prefix each got.
 */
export abstract class Module {
  constructor(readonly prefix: string) {}

  /** This module and all below it, parents first; each once even when shared. */
  *modules(seen: Set<Module> = new Set()): Generator<Module> {
    if (seen.has(this)) return;
    seen.add(this);
    yield this;
    for (const value of Object.values(this)) for (const child of modulesIn(value)) yield* child.modules(seen);
  }

  /** Every parameter once; a tied one belongs to the module that is met first. */
  *parameters(): Generator<Parameter> {
    yield* this.members((value): value is Parameter => value instanceof Parameter);
  }

  /** Parameters by their full name, as a loading loop of one's own needs them. */
  namedParameters(): Map<string, Parameter> {
    return new Map(Array.from(this.parameters(), (param) => [param.name, param]));
  }

  *buffers(): Generator<ConstantBuffer> {
    yield* this.members((value): value is ConstantBuffer => value instanceof ConstantBuffer);
  }

  /** Called once by the loader after every weight was read, one module after the other: the place to repack weights. */
  processWeightsAfterLoading(): void | Promise<void> {
    // most modules use their weights as they are read
  }

  private *members<T extends object>(is: (value: unknown) => value is T): Generator<T> {
    const seen = new Set<T>();
    for (const module of this.modules())
      for (const value of Object.values(module).flatMap(valuesIn))
        if (is(value) && !seen.has(value)) {
          seen.add(value);
          yield value;
        }
  }
}

function modulesIn(value: unknown): Module[] {
  return valuesIn(value).filter((item): item is Module => item instanceof Module);
}

/** A property's value, or the values of a list or plain record. */
function valuesIn(value: unknown): unknown[] {
  if (Array.isArray(value)) return value;
  const plain = typeof value === 'object' && value !== null && Object.getPrototypeOf(value) === Object.prototype;
  return plain ? Object.values(value) : [value];
}

/** `prefix.name`, or `name` at the root. */
export function maybePrefix(prefix: string, name: string): string {
  return prefix ? `${prefix}.${name}` : name;
}

/** The number of the layer that a module belongs to: the only number in `model.layers.3.mlp` (vllm extract_layer_index). */
export function extractLayerIndex(prefix: string): number {
  const numbers = prefix.split('.').filter((part) => /^\d+$/.test(part));
  if (numbers.length !== 1) throw new KvasirError('ERR_KVASIR_LAYER', `the prefix "${prefix}" must hold the number of one layer`);
  return Number(numbers[0]);
}

/** `numLayers` modules with the prefixes `prefix.0`, `prefix.1`, ... (vllm make_layers). */
export function makeLayers<T extends Module>(numLayers: number, make: (prefix: string, index: number) => T, prefix: string): T[] {
  return Array.from({ length: numLayers }, (_, i) => make(`${prefix}.${i}`, i));
}
