import { KvasirError } from '../utils/errors';

/** An entry of tokenizer.json's `added_tokens`. */
export interface AddedToken {
  readonly id: number;
  readonly content: string;
  readonly special: boolean;
  readonly lstrip?: boolean;
  readonly rstrip?: boolean;
  readonly single_word?: boolean;
  readonly normalized?: boolean;
}

/** What the checks found: every token string with its id. */
export interface CheckedVocabulary {
  readonly idOf: ReadonlyMap<string, number>;
  readonly addedTokens: readonly AddedToken[];
}

/** Bounds of a vocabulary, some ten times the largest known ones. Ids index arrays, so they are bounded as well. */
export const VOCABULARY_LIMITS = { tokens: 4_000_000, merges: 8_000_000, addedTokens: 100_000, id: 16_777_216, tokenLength: 65_536, patternLength: 16_384 };

/** Kinds of model the backend has; files older than the field leave it out. */
const MODEL_TYPES = new Set<unknown>(['BPE', 'Unigram', 'WordPiece']);

type Json = Record<string, unknown>;

const isObject = (value: unknown): value is Json => typeof value === 'object' && value !== null && !Array.isArray(value);

export function tokenizerError(message: string): KvasirError {
  return new KvasirError('ERR_KVASIR_TOKENIZER', `tokenizer.json: ${message}`);
}

function checkId(id: unknown, token: string): number {
  if (typeof id !== 'number' || !Number.isInteger(id) || id < 0 || id >= VOCABULARY_LIMITS.id) {
    throw tokenizerError(`expected the id of token ${JSON.stringify(token.slice(0, 64))} to be an integer in [0, ${VOCABULARY_LIMITS.id}), received ${JSON.stringify(id)}`);
  }
  return id;
}

function checkCount(count: number, limit: number, what: string): void {
  if (count > limit) throw tokenizerError(`expected at most ${limit} ${what}, received ${count}`);
}

/** Tokens of a Unigram vocabulary, a list of [token, score]; the place in the list is the id. */
function unigramTokens(vocab: readonly unknown[]): string[] {
  return vocab.map((entry, id) => {
    if (!Array.isArray(entry) || typeof entry[0] !== 'string' || !Number.isFinite(entry[1])) {
      throw tokenizerError(`expected model.vocab[${id}] to be [token, finite score], received ${JSON.stringify(entry)?.slice(0, 64)}`);
    }
    return entry[0];
  });
}

function checkVocabulary({ vocab }: Json): Map<string, number> {
  const isList = Array.isArray(vocab);
  if (!isList && !isObject(vocab)) throw tokenizerError(`expected model.vocab to be an object or a list, received ${typeof vocab}`);
  const tokens = isList ? unigramTokens(vocab) : Object.keys(vocab);
  checkCount(tokens.length, VOCABULARY_LIMITS.tokens, 'tokens in model.vocab');
  if (tokens.length === 0) throw tokenizerError('expected model.vocab to hold tokens, received none');
  const idOf = new Map<string, number>();
  const taken = new Uint8Array(VOCABULARY_LIMITS.id);
  tokens.forEach((token, index) => {
    if (token.length > VOCABULARY_LIMITS.tokenLength) throw tokenizerError(`expected tokens of at most ${VOCABULARY_LIMITS.tokenLength} characters, received one of ${token.length}`);
    const id = isList ? index : checkId(vocab[token], token);
    if (taken[id] === 1) throw tokenizerError(`token ${JSON.stringify(token)} has the id ${id}, which another token has as well`);
    taken[id] = 1;
    idOf.set(token, id);
  });
  return idOf;
}

/** The two tokens of a merge, "a b" or ["a", "b"]; null for anything else. */
function halvesOf(merge: unknown): readonly [string, string] | null {
  if (typeof merge === 'string') {
    const blank = merge.indexOf(' ');
    return blank === -1 || merge.includes(' ', blank + 1) ? null : [merge.slice(0, blank), merge.slice(blank + 1)];
  }
  return Array.isArray(merge) && merge.length === 2 && typeof merge[0] === 'string' && typeof merge[1] === 'string' ? [merge[0], merge[1]] : null;
}

/** Both halves of a merge and what they make must be tokens; otherwise ids would be made up while encoding. */
function checkMerges(model: Json, idOf: ReadonlyMap<string, number>): void {
  const merges = model.merges;
  if (merges === undefined && model.type !== 'BPE') return;
  if (!Array.isArray(merges)) throw tokenizerError(`expected model.merges to be a list, received ${typeof merges}`);
  checkCount(merges.length, VOCABULARY_LIMITS.merges, 'merges');
  const plain = !model.continuing_subword_prefix;
  merges.forEach((merge: unknown, index) => {
    const halves = halvesOf(merge);
    if (halves === null) throw tokenizerError(`expected model.merges[${index}] to be two tokens, received ${JSON.stringify(merge)?.slice(0, 64)}`);
    const [left, right] = halves;
    if (!idOf.has(left) || !idOf.has(right) || (plain && !idOf.has(left + right))) {
      throw tokenizerError(`model.merges[${index}] (${JSON.stringify(halves)}) names a token that model.vocab does not hold`);
    }
  });
}

/** @throws KvasirError ERR_KVASIR_TOKENIZER unless every entry has content and an id of its own. */
export function checkAddedTokens(value: unknown, where = 'added_tokens'): AddedToken[] {
  if (value === undefined || value === null) return [];
  if (!Array.isArray(value)) throw tokenizerError(`expected ${where} to be a list, received ${typeof value}`);
  checkCount(value.length, VOCABULARY_LIMITS.addedTokens, where);
  const contentOf = new Map<number, string>();
  return value.map((entry: unknown, index) => {
    if (!isObject(entry) || typeof entry.content !== 'string' || entry.content === '') {
      throw tokenizerError(`expected ${where}[${index}] to have content, received ${JSON.stringify(entry)?.slice(0, 64)}`);
    }
    const id = checkId(entry.id, entry.content);
    const other = contentOf.get(id);
    if (other !== undefined && other !== entry.content) throw tokenizerError(`${where}: ${JSON.stringify(other)} and ${JSON.stringify(entry.content)} have the same id ${id}`);
    contentOf.set(id, entry.content);
    return { ...entry, id, content: entry.content, special: entry.special === true } as AddedToken;
  });
}

/** Patterns run on a backtracking engine; their length at least is bounded, and so is the nesting of the pipeline. */
function checkPipeline(value: unknown, depth = 0): void {
  if (depth > 16) throw tokenizerError('expected normalizer, pre_tokenizer and post_processor to be nested at most 16 deep');
  if (typeof value === 'string') {
    // A precompiled character map is a long base64 string; anything else of this size is no pattern that anybody wrote.
    if (value.length > VOCABULARY_LIMITS.patternLength && !/^[A-Za-z0-9+/=]*$/.test(value)) {
      throw tokenizerError(`expected patterns of at most ${VOCABULARY_LIMITS.patternLength} characters, received one of ${value.length}`);
    }
    return;
  }
  if (typeof value !== 'object' || value === null) return;
  for (const inner of Object.values(value)) checkPipeline(inner, depth + 1);
}

/** Tokens that a TemplateProcessing puts in must exist, or encoding would put in nothing instead of them. */
function checkPostProcessor(processor: unknown, known: (token: string) => boolean): void {
  if (!isObject(processor)) return;
  if (Array.isArray(processor.processors)) processor.processors.forEach((inner) => checkPostProcessor(inner, known));
  if (processor.type !== 'TemplateProcessing') return;
  for (const item of [processor.single, processor.pair].flat() as unknown[]) {
    const special = isObject(item) && isObject(item.SpecialToken) ? item.SpecialToken.id : undefined;
    if (special !== undefined && (typeof special !== 'string' || !known(special))) {
      throw tokenizerError(`post_processor puts in ${JSON.stringify(special)}, which is no token`);
    }
  }
}

/**
 * Checks everything of a parsed tokenizer.json that later code relies on: ids (integers, unique, bounded; holes are
 * allowed), merges, added tokens, tokens of the post-processor, sizes.
 * @throws KvasirError ERR_KVASIR_TOKENIZER naming the first thing that is wrong.
 */
export function checkTokenizerJson(json: unknown): CheckedVocabulary {
  if (!isObject(json)) throw tokenizerError('expected a JSON object');
  if (!isObject(json.model)) throw tokenizerError('expected a "model" object; is this a tokenizer.json of the tokenizers library?');
  const { type } = json.model;
  if (type !== undefined && !MODEL_TYPES.has(type)) throw tokenizerError(`expected a model of type BPE, Unigram or WordPiece, received ${JSON.stringify(type)}`);
  const idOf = checkVocabulary(json.model);
  checkMerges(json.model, idOf);
  const addedTokens = checkAddedTokens(json.added_tokens);
  for (const part of [json.normalizer, json.pre_tokenizer, json.post_processor]) checkPipeline(part);
  const added = new Set(addedTokens.map((token) => token.content));
  checkPostProcessor(json.post_processor, (token) => idOf.has(token) || added.has(token));
  return { idOf, addedTokens };
}
