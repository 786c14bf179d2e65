import { checkAddedTokens, tokenizerError, type AddedToken } from './validate';

/** Names a template sees (bos_token, eos_token, ...) with the text of the tokens; names without a token are left out. */
export type SpecialTokens = Readonly<Record<string, string>>;

const NAMES = ['bos_token', 'eos_token', 'unk_token', 'sep_token', 'pad_token', 'cls_token', 'mask_token'] as const;

type Json = Record<string, unknown>;

/** A token is given as its text or as an object with `content`; null and false mean none. */
function textOf(value: unknown, name: string): string | null {
  if (value === undefined || value === null || value === false) return null;
  const text = typeof value === 'object' ? (value as Json).content : value;
  if (typeof text !== 'string') throw tokenizerError(`expected ${name} of tokenizer_config.json to be a string, received ${JSON.stringify(value)}`);
  return text === '' ? null : text;
}

/** Named special tokens: tokenizer_config.json decides, special_tokens_map.json fills in what it does not name. */
export function namedSpecialTokens(config: Json, map: Json | null): SpecialTokens {
  const named: Record<string, string> = {};
  for (const name of NAMES) {
    const text = Object.hasOwn(config, name) ? textOf(config[name], name) : textOf(map?.[name], name);
    if (text !== null) named[name] = text;
  }
  return named;
}

/** additional_special_tokens (in newer files extra_special_tokens) of the two files. */
function additionalSpecialTokens(config: Json, map: Json | null): string[] {
  return [config.additional_special_tokens, config.extra_special_tokens, map?.additional_special_tokens]
    .flatMap((list): unknown[] => (Array.isArray(list) ? list : typeof list === 'object' && list !== null ? Object.values(list) : []))
    .map((value) => textOf(value, 'additional_special_tokens'))
    .filter((text): text is string => text !== null);
}

/** Entries of tokenizer_config.json's added_tokens_decoder: id -> token. */
function configAddedTokens(config: Json): AddedToken[] {
  const table = config.added_tokens_decoder;
  if (table === undefined || table === null) return [];
  if (typeof table !== 'object') throw tokenizerError('expected added_tokens_decoder of tokenizer_config.json to be an object');
  return checkAddedTokens(
    Object.entries(table).map(([id, token]) => ({ ...(token as Json), id: Number(id) })),
    'added_tokens_decoder of tokenizer_config.json',
  );
}

/**
 * All added tokens, the way transformers builds its fast tokenizers: those of tokenizer.json; those that only
 * tokenizer_config.json lists; and named special tokens of the vocabulary that neither declares (as special ones).
 * A token is special when any of the two files says so.
 */
export function mergeAddedTokens(own: readonly AddedToken[], idOf: ReadonlyMap<string, number>, config: Json, map: Json | null): AddedToken[] {
  const merged = new Map(own.map((token) => [token.content, token]));
  const taken = new Set(own.map((token) => token.id));
  for (const token of configAddedTokens(config)) {
    const known = merged.get(token.content);
    if (known !== undefined) {
      if (token.special && known.id === token.id) merged.set(token.content, { ...known, special: true });
    } else if (!taken.has(token.id)) {
      merged.set(token.content, token);
      taken.add(token.id);
    }
  }
  for (const content of [...Object.values(namedSpecialTokens(config, map)), ...additionalSpecialTokens(config, map)]) {
    const id = idOf.get(content);
    if (id !== undefined && !merged.has(content) && !taken.has(id)) merged.set(content, { id, content, special: true, normalized: false });
  }
  return [...merged.values()];
}

/**
 * Chat templates by name: chat_template.jinja is 'default' and goes before tokenizer_config.json's chat_template, which is
 * one template or a list of {name, template}.
 */
export function chatTemplatesOf(config: Json, file: string | null): ReadonlyMap<string, string> {
  const templates = new Map<string, string>();
  const value = config.chat_template;
  const list: unknown = typeof value === 'string' ? [{ name: 'default', template: value }] : (value ?? []);
  if (!Array.isArray(list)) throw tokenizerError('expected chat_template of tokenizer_config.json to be a string or a list of {name, template}');
  for (const entry of list as (Json | null)[]) {
    if (typeof entry?.name !== 'string' || typeof entry.template !== 'string') {
      throw tokenizerError(`expected an entry of chat_template to be {name, template}, received ${JSON.stringify(entry)?.slice(0, 64)}`);
    }
    templates.set(entry.name, entry.template);
  }
  if (file !== null) templates.set('default', file);
  return templates;
}
