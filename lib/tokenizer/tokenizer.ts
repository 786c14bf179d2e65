import { KvasirError, messageOf } from '../utils/errors';
import { Backend } from './backend';
import { parseDecodeRules } from './decode-rules';
import { DecodeStream, type DecodeOptions } from './decode-stream';
import { checkModelDirectory, readTokenizerFile, readTokenizerJson } from './files';
import { chatTemplatesOf, mergeAddedTokens, namedSpecialTokens, type SpecialTokens } from './special-tokens';
import { TokenTable } from './token-table';
import { REPLACEMENT } from './utf8-stream';
import { checkTokenizerJson, VOCABULARY_LIMITS } from './validate';

type Json = Record<string, unknown>;

export interface EncodeOptions {
  /** Add what the post-processor of tokenizer.json adds, such as the beginning-of-sequence token. Default true. */
  readonly addSpecialTokens?: boolean;
}

/** Files of a tokenizer besides tokenizer.json, parsed. */
export interface TokenizerExtras {
  readonly specialTokensMap?: Json | null;
  /** Text of chat_template.jinja. */
  readonly chatTemplate?: string | null;
}

const LONE_SURROGATES = /\p{Surrogate}/gu;

/** Parts that tokenizer.json may leave out but the backend wants to see. */
const OPTIONAL_PARTS = { normalizer: null, pre_tokenizer: null, post_processor: null, decoder: null };

/**
 * A Hugging Face tokenizer: text to ids by @huggingface/tokenizers, ids to text here, because decoding must also work as a
 * stream (see DecodeStream). Ids equal those of the Rust library `tokenizers`; so do texts, with two exceptions: a run of
 * byte-fallback tokens keeps its whole characters when only part of it is broken (as in sentencepiece), and
 * clean_up_tokenization_spaces is not applied (as in vLLM).
 */
export class Tokenizer {
  /** Distinct tokens, added ones included (len(tokenizer) in transformers). The model's logits may be wider. */
  readonly vocabSize: number;
  readonly maxTokenId: number;
  readonly bosTokenId: number | null;
  readonly eosTokenId: number | null;
  readonly padTokenId: number | null;
  readonly unkTokenId: number | null;
  /** Ids left out by skipSpecialTokens. */
  readonly specialTokenIds: ReadonlySet<number>;
  /** Ids of all added tokens, special or not. */
  readonly addedTokenIds: ReadonlySet<number>;
  /** bos_token, eos_token, ... as chat templates see them. */
  readonly specialTokens: SpecialTokens;
  /** Chat templates by name; 'default' and perhaps 'tool_use' and others. */
  readonly chatTemplates: ReadonlyMap<string, string>;
  private readonly tokens: (string | undefined)[] = [];
  private readonly ids: ReadonlyMap<string, number>;
  private readonly table: TokenTable;

  private constructor(
    private readonly backend: Backend,
    json: Json,
    ids: Map<string, number>,
    added: ReturnType<typeof mergeAddedTokens>,
    config: Json,
    extras: TokenizerExtras,
  ) {
    for (const token of ids) this.tokens[token[1]] = token[0];
    for (const token of added) {
      this.tokens[token.id] = token.content;
      ids.set(token.content, token.id);
    }
    this.ids = ids;
    this.vocabSize = this.tokens.reduce((count) => count + 1, 0);
    this.maxTokenId = this.tokens.length - 1;
    this.addedTokenIds = new Set(added.map((token) => token.id));
    this.specialTokenIds = new Set(added.filter((token) => token.special).map((token) => token.id));
    this.specialTokens = namedSpecialTokens(config, extras.specialTokensMap ?? null);
    this.bosTokenId = this.namedId('bos_token');
    this.eosTokenId = this.namedId('eos_token');
    this.padTokenId = this.namedId('pad_token');
    this.unkTokenId = this.namedId('unk_token');
    this.chatTemplates = chatTemplatesOf(config, extras.chatTemplate ?? null);
    this.table = new TokenTable(parseDecodeRules(json.decoder), (id) => this.idToToken(id), this.addedTokenIds);
  }

  /**
   * Reads tokenizer.json and, where present, tokenizer_config.json, special_tokens_map.json and chat_template.jinja.
   * @throws KvasirError ERR_KVASIR_MODEL_NOT_FOUND without a directory or tokenizer.json, ERR_KVASIR_TOKENIZER for damaged
   * or unsupported files.
   */
  static async load(dir: string): Promise<Tokenizer> {
    const tokenizer = await loadTokenizerIfPresent(dir);
    if (tokenizer !== null) return tokenizer;
    throw new KvasirError(
      'ERR_KVASIR_MODEL_NOT_FOUND',
      `expected ${JSON.stringify(dir)} to hold a tokenizer.json, found none; convert other formats (tokenizer.model, vocab.json) with transformers' save_pretrained`,
    );
  }

  /**
   * A tokenizer from parsed files.
   * @param json tokenizer.json
   * @param config tokenizer_config.json
   * @throws KvasirError ERR_KVASIR_TOKENIZER for contents that are damaged or not supported.
   */
  static fromJson(json: unknown, config: Json = {}, extras: TokenizerExtras = {}): Tokenizer {
    const { idOf, addedTokens } = checkTokenizerJson(json);
    const added = mergeAddedTokens(addedTokens, idOf, config, extras.specialTokensMap ?? null);
    const source = { ...OPTIONAL_PARTS, ...(json as Json), added_tokens: added };
    let backend: Backend;
    try {
      backend = new Backend(source, { ...config, clean_up_tokenization_spaces: false, additional_special_tokens: [] });
    } catch (error) {
      throw new KvasirError('ERR_KVASIR_TOKENIZER', `tokenizer.json is not supported: ${messageOf(error)}`, { cause: error });
    }
    return new Tokenizer(backend, source, new Map(idOf), added, config, extras);
  }

  /** The template for conversations without tools; null when the model has none. */
  get chatTemplate(): string | null {
    return this.chatTemplates.get('default') ?? null;
  }

  /**
   * Token ids of `text`. Lone surrogates count as U+FFFD; characters that the vocabulary cannot spell become the unknown
   * token, or nothing where there is none.
   * @throws KvasirError ERR_KVASIR_TOKENIZER when `text` is no string or the tokenizer fails on it.
   */
  encode(text: string, options: EncodeOptions = {}): number[] {
    if (typeof text !== 'string') throw new KvasirError('ERR_KVASIR_TOKENIZER', `expected a text to encode, received ${typeof text}`);
    let ids: (number | undefined)[];
    try {
      ids = this.backend.encode(text.replace(LONE_SURROGATES, REPLACEMENT), { add_special_tokens: options.addSpecialTokens ?? true }).ids;
    } catch (error) {
      throw new KvasirError('ERR_KVASIR_TOKENIZER', `the tokenizer failed on a text of ${text.length} characters: ${messageOf(error)}`, { cause: error });
    }
    return ids.filter((id): id is number => id !== undefined);
  }

  /**
   * Text of `ids`; ids that name no token add nothing, bytes that are no UTF-8 become U+FFFD.
   * @throws KvasirError ERR_KVASIR_TOKENIZER for an id that is no integer >= 0.
   */
  decode(ids: Iterable<number>, options: DecodeOptions = {}): string {
    const stream = this.createDecodeStream(options);
    let text = '';
    for (const id of ids) {
      if (!Number.isInteger(id) || id < 0) throw new KvasirError('ERR_KVASIR_TOKENIZER', `expected token ids to be integers >= 0, received ${String(id)}`);
      text += stream.push(id);
    }
    return text + stream.finish();
  }

  /** The text `id` adds in the middle of a text, with its leading blank: what a list of log probabilities shows. */
  tokenText(id: number): string {
    const piece = this.table.pieceOf(id);
    return piece === null ? '' : (piece.text ?? new TextDecoder('utf-8', { ignoreBOM: true }).decode(piece.bytes));
  }

  /** A stream of ids to text that begins a new text; to continue a prompt use IncrementalDetokenizer. */
  createDecodeStream(options: DecodeOptions = {}): DecodeStream {
    return new DecodeStream(this.table, this.specialTokenIds, this.addedTokenIds, options);
  }

  /** The token as the vocabulary spells it ("Ġthe", "▁the", "<0x0A>"); null for ids that name none. */
  idToToken(id: number): string | null {
    return id < VOCABULARY_LIMITS.id ? (this.tokens[id] ?? null) : null;
  }

  /** Inverse of {@link idToToken}. */
  tokenToId(token: string): number | null {
    return this.ids.get(token) ?? null;
  }

  private namedId(name: string): number | null {
    const token = this.specialTokens[name];
    return token === undefined ? null : this.tokenToId(token);
  }
}

/**
 * The tokenizer of a model directory; null when the directory has no tokenizer.json: such a model still runs on token ids.
 * @throws KvasirError as {@link Tokenizer.load} for everything else.
 */
export async function loadTokenizerIfPresent(dir: string): Promise<Tokenizer | null> {
  await checkModelDirectory(dir);
  const json = await readTokenizerJson(dir, 'tokenizer.json');
  if (json === null) return null;
  const config = (await readTokenizerJson(dir, 'tokenizer_config.json')) ?? {};
  const specialTokensMap = await readTokenizerJson(dir, 'special_tokens_map.json');
  const chatTemplate = await readTokenizerFile(dir, 'chat_template.jinja');
  return Tokenizer.fromJson(json, config, { specialTokensMap, chatTemplate });
}
