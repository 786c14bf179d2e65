import { InvalidArgumentError } from 'commander';

/** A parser for commander: an integer within [min, max], or exit code 2 with a sentence. */
export function integer(min: number, max = Number.MAX_SAFE_INTEGER): (text: string) => number {
  return (text) => {
    const value = Number(text);
    if (text.trim() !== '' && Number.isSafeInteger(value) && value >= min && value <= max) return value;
    const range = max === Number.MAX_SAFE_INTEGER ? `of at least ${min}` : `from ${min} to ${max}`;
    throw new InvalidArgumentError(`Expected an integer ${range}, received "${text}".`);
  };
}

/** A parser for commander: any finite number. */
export function number(text: string): number {
  const value = Number(text);
  if (text.trim() !== '' && Number.isFinite(value)) return value;
  throw new InvalidArgumentError(`Expected a number, received "${text}".`);
}

/** A parser for commander: a finite number within [min, max]. */
export function numberWithin(min: number, max: number): (text: string) => number {
  return (text) => {
    const value = number(text);
    if (value >= min && value <= max) return value;
    throw new InvalidArgumentError(`Expected a number from ${min} to ${max}, received "${text}".`);
  };
}
