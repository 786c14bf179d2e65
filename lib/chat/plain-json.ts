import { KvasirError } from '../utils/errors';
import { INPUT_LIMITS } from './limits';

export type JsonValue = string | number | boolean | null | JsonValue[] | { [key: string]: JsonValue };

function refuse(path: string, expected: string, received: string): KvasirError {
  return new KvasirError('ERR_KVASIR_CHAT_TEMPLATE', `${path}: expected ${expected}, received ${received}`);
}

function isPlainObject(value: object): boolean {
  const prototype: unknown = Object.getPrototypeOf(value);
  // Objects of another realm have another Object.prototype; it is the one whose own prototype is null.
  return prototype === null || Object.getPrototypeOf(prototype) === null;
}

interface Budget {
  values: number;
}

function copy(value: unknown, path: string, depth: number, budget: Budget): JsonValue {
  if (--budget.values < 0) throw refuse(path, `at most ${INPUT_LIMITS.values} values`, 'more');
  if (depth > INPUT_LIMITS.depth) throw refuse(path, `values nested at most ${INPUT_LIMITS.depth} deep`, 'more');
  if (value === null || typeof value === 'string' || typeof value === 'boolean') return value;
  if (typeof value === 'number') {
    if (!Number.isFinite(value)) throw refuse(path, 'a finite number', String(value));
    return value;
  }
  if (Array.isArray(value)) return Array.from(value, (item: unknown, i) => copy(item, `${path}[${i}]`, depth + 1, budget));
  if (typeof value !== 'object' || !isPlainObject(value)) throw refuse(path, 'a JSON value', typeof value === 'object' ? 'an instance of a class' : typeof value);
  const entries = Object.entries(value).filter(([, item]) => item !== undefined);
  // No property of a prototype can be reached or set through what a template sees.
  const plain = Object.create(null) as { [key: string]: JsonValue };
  for (const [key, item] of entries) plain[key] = copy(item, `${path}.${key.slice(0, 64)}`, depth + 1, budget);
  return plain;
}

/**
 * A deep copy that holds JSON values and nothing else (undefined properties are left out, as JSON.stringify does).
 * @throws KvasirError ERR_KVASIR_CHAT_TEMPLATE naming the place of anything else, of NaN and of too much.
 */
export function toPlainJson(value: unknown, path: string): JsonValue {
  return copy(value, path, 0, { values: INPUT_LIMITS.values });
}
