import { KvasirError, messageOf } from '../utils/errors';
import type { NameRule } from './name-list';

/** Longer ones are no pattern for names of layers. */
const MAX_PATTERN_LENGTH = 1000;

/**
 * A regular expression of a checkpoint as a test that is anchored at the start, as Python's re.match is.
 * @throws KvasirError ERR_KVASIR_QUANTIZATION for one that is none in JavaScript
 */
export function atStart(pattern: string): (name: string) => boolean {
  let regex: RegExp;
  try {
    if (pattern.length > MAX_PATTERN_LENGTH) throw new Error(`it has ${pattern.length} characters, at most ${MAX_PATTERN_LENGTH} are allowed`);
    regex = new RegExp(pattern.replaceAll('(?P<', '(?<'), 'y');
  } catch (error) {
    throw new KvasirError('ERR_KVASIR_QUANTIZATION', `quantization_config: expected a regular expression, received ${JSON.stringify(pattern.slice(0, 100))}: ${messageOf(error)}`);
  }
  return (name) => {
    regex.lastIndex = 0;
    return regex.test(name);
  };
}

/** The rule of compressed-tensors for these entries: a name, or `re:` and a regular expression that matches at the start. */
export function nameOrPattern(entries: readonly string[]): NameRule {
  const patterns = new Map(entries.filter((entry) => entry.startsWith('re:')).map((entry) => [entry, atStart(entry.slice(3))]));
  return (entry, name) => patterns.get(entry)?.(name) ?? entry === name;
}
