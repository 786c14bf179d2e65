import { KvasirError } from '../utils/errors';
import type { InvalidBytes } from './utf8-stream';

/** How the text of tokens is put together: tokenizer.json's `decoder`, reduced to what can be done token by token. */
export interface DecodeRules {
  /** Characters of a token stand for bytes (GPT-2's alphabet). */
  readonly byteLevel: boolean;
  /** Tokens <0x00>..<0xFF> stand for bytes. */
  readonly byteFallback: boolean;
  /** Applied to every token, in order. */
  readonly replacements: readonly { readonly pattern: string; readonly content: string }[];
  /** Taken off the beginning of the whole text, at most `count` times. */
  readonly stripStart: { readonly content: string; readonly count: number } | null;
  /** Taken off the first token wherever it stands (Metaspace). */
  readonly firstTokenDrops: string | null;
  /** Joins tokens: ' ' for WordPiece and where there is no decoder at all. */
  readonly separator: string;
  /** A token that begins with it is joined to the one before without the separator (WordPiece). */
  readonly continuationPrefix: string | null;
  /** At the end of a token it stands for a blank, except at the end of the text (BPEDecoder). */
  readonly wordSuffix: string | null;
  readonly invalidBytes: InvalidBytes;
}

type Draft = { -readonly [K in keyof DecodeRules]: DecodeRules[K] };

type DecoderConfig = Record<string, unknown>;

function unsupported(what: string): KvasirError {
  return new KvasirError(
    'ERR_KVASIR_TOKENIZER',
    `tokenizer.json: expected a decoder made of ByteLevel, ByteFallback, Replace (a string), Fuse, Strip (at the start), Metaspace, WordPiece or BPEDecoder, received ${what}`,
  );
}

function stringOf(value: unknown, name: string): string {
  if (typeof value !== 'string') throw unsupported(`${name} = ${JSON.stringify(value)}`);
  return value;
}

function addReplace(rules: Draft, config: DecoderConfig): void {
  const pattern = config.pattern as { String?: unknown } | undefined;
  const from = stringOf(pattern?.String, 'a Replace without a string pattern: pattern');
  if (from === '') throw unsupported('a Replace with an empty pattern');
  rules.replacements = [...rules.replacements, { pattern: from, content: stringOf(config.content ?? '', 'Replace.content') }];
}

function addStrip(rules: Draft, config: DecoderConfig): void {
  const start = config.start ?? 0;
  if (!Number.isInteger(start) || (config.stop ?? 0) !== 0) throw unsupported(`Strip with start ${String(start)} and stop ${String(config.stop)}`);
  const content = stringOf(config.content, 'Strip.content');
  if (content.length !== 1) throw unsupported(`Strip with content ${JSON.stringify(content)}`);
  if ((start as number) > 0) rules.stripStart = { content, count: start as number };
}

function addMetaspace(rules: Draft, config: DecoderConfig): void {
  const replacement = stringOf(config.replacement ?? '\u2581', 'Metaspace.replacement');
  if (replacement === '') throw unsupported('a Metaspace with an empty replacement');
  const prepends = config.prepend_scheme !== undefined ? config.prepend_scheme !== 'never' : config.add_prefix_space !== false;
  if (prepends) rules.firstTokenDrops = replacement;
  rules.replacements = [...rules.replacements, { pattern: replacement, content: ' ' }];
}

function addStep(rules: Draft, step: unknown): void {
  const config = (typeof step === 'object' && step !== null ? step : {}) as DecoderConfig;
  switch (config.type) {
    case 'ByteLevel':
      rules.byteLevel = true;
      rules.invalidBytes = 'perSequence';
      return;
    case 'ByteFallback':
      rules.byteFallback = true;
      return;
    case 'Fuse':
      return; // tokens are joined without a separator anyway
    case 'Replace':
      return addReplace(rules, config);
    case 'Strip':
      return addStrip(rules, config);
    case 'Metaspace':
      return addMetaspace(rules, config);
    case 'WordPiece':
      rules.separator = ' ';
      rules.continuationPrefix = stringOf(config.prefix ?? '##', 'WordPiece.prefix');
      return;
    case 'BPEDecoder':
      rules.wordSuffix = stringOf(config.suffix ?? '</w>', 'BPEDecoder.suffix');
      return;
    case 'Sequence':
      if (!Array.isArray(config.decoders) || config.decoders.length > 16) throw unsupported('a Sequence without a short list of decoders');
      for (const inner of config.decoders) addStep(rules, inner);
      return;
    default:
      throw unsupported(JSON.stringify(config.type) ?? 'no type');
  }
}

/**
 * Reads tokenizer.json's `decoder` (semantics of the Rust library tokenizers 0.23).
 * @throws KvasirError ERR_KVASIR_TOKENIZER for a decoder that is not supported.
 */
export function parseDecodeRules(decoder: unknown): DecodeRules {
  const rules: Draft = {
    byteLevel: false,
    byteFallback: false,
    replacements: [],
    stripStart: null,
    firstTokenDrops: null,
    separator: '',
    continuationPrefix: null,
    wordSuffix: null,
    invalidBytes: 'perByte',
  };
  if (decoder === null || decoder === undefined) rules.separator = ' ';
  else addStep(rules, decoder);
  if (rules.wordSuffix === '' || (rules.byteLevel && rules.byteFallback)) throw unsupported('a combination that contradicts itself');
  return rules;
}
