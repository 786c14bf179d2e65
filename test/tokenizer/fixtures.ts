import * as fs from 'node:fs';
import * as zlib from 'node:zlib';
import { Tokenizer } from '../../lib/tokenizer/tokenizer';
import { readSharedJson, sharedPath } from '../fixtures/shared';

export interface EncodeCase {
  text: string;
  ids: number[];
  ids_no_special: number[];
  decoded: string;
  decoded_skip_special: string;
}

export interface GoldenEncode {
  vocab_size: number;
  cases: EncodeCase[];
  streaming: { text: string; ids: number[]; prefix_decodes: string[] }[];
}

export interface GoldenModel {
  greedy: { prompt: string; prompt_ids: number[]; output_ids: number[]; text: string; full_text?: string }[];
  chat?: { user: string; rendered: string; prompt_ids: number[]; output_ids: number[]; text: string }[];
}

/** Folders of shared/tokenizers; named here so that a skipped test still shows its name. */
export const TOKENIZERS = ['gpt-neox', 'gpt2', 'llama-2', 'llama-3.1', 'mistral-v3', 'phi-3', 'qwen3'];

export const MODELS = ['stories260K', 'babyllama-tok105', 'kvasir-tales-5m'];

const loaded = new Map<string, Tokenizer>();

/** A tokenizer of shared/tokenizers, whose tokenizer.json may be gzipped. */
export function sharedTokenizer(name: string): Tokenizer {
  let tokenizer = loaded.get(name);
  if (tokenizer === undefined) {
    const file = sharedPath('tokenizers', name, 'tokenizer.json');
    const text = fs.existsSync(file) ? fs.readFileSync(file) : zlib.gunzipSync(fs.readFileSync(`${file}.gz`));
    const template = sharedPath('tokenizers', name, 'chat_template.jinja');
    const chatTemplate = fs.existsSync(template) ? fs.readFileSync(template, 'utf8') : null;
    tokenizer = Tokenizer.fromJson(JSON.parse(text.toString('utf8')), readSharedJson('tokenizers', name, 'tokenizer_config.json'), { chatTemplate });
    loaded.set(name, tokenizer);
  }
  return tokenizer;
}


/** A small byte-level tokenizer with every byte, two merges and two special tokens. */
export function tinyByteLevelJson(): Record<string, unknown> {
  const alphabet: string[] = [];
  let next = 0x100;
  for (let byte = 0; byte < 256; byte++) {
    const printable = (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;
    alphabet.push(String.fromCharCode(printable ? byte : next++));
  }
  const tokens = ['<s>', '</s>', ...alphabet, 'he', 'hel'];
  return {
    version: '1.0',
    added_tokens: [
      { id: 0, content: '<s>', special: true, normalized: false },
      { id: 1, content: '</s>', special: true, normalized: false },
    ],
    normalizer: null,
    pre_tokenizer: { type: 'ByteLevel', add_prefix_space: false, use_regex: true },
    post_processor: { type: 'TemplateProcessing', single: [{ SpecialToken: { id: '<s>', type_id: 0 } }, { Sequence: { id: 'A', type_id: 0 } }], pair: [], special_tokens: {} },
    decoder: { type: 'ByteLevel' },
    model: { type: 'BPE', unk_token: null, vocab: Object.fromEntries(tokens.map((token, id) => [token, id])), merges: ['h e', 'he l'] },
  };
}

/** A small sentencepiece-style tokenizer: byte fallback, blanks as U+2581, one blank put in front. */
export function tinyByteFallbackJson(): Record<string, unknown> {
  const bytes = Array.from({ length: 256 }, (_, byte) => `<0x${byte.toString(16).toUpperCase().padStart(2, '0')}>`);
  const tokens = ['<unk>', '<s>', '</s>', ...bytes, '▁', 'a', 'b', '▁a', 'é', '你'];
  return {
    version: '1.0',
    added_tokens: ['<unk>', '<s>', '</s>'].map((content, id) => ({ id, content, special: true, normalized: false })),
    normalizer: { type: 'Sequence', normalizers: [{ type: 'Prepend', prepend: '▁' }, { type: 'Replace', pattern: { String: ' ' }, content: '▁' }] },
    pre_tokenizer: null,
    post_processor: null,
    decoder: {
      type: 'Sequence',
      decoders: [{ type: 'Replace', pattern: { String: '▁' }, content: ' ' }, { type: 'ByteFallback' }, { type: 'Fuse' }, { type: 'Strip', content: ' ', start: 1, stop: 0 }],
    },
    model: { type: 'BPE', unk_token: '<unk>', byte_fallback: true, fuse_unk: true, vocab: Object.fromEntries(tokens.map((token, id) => [token, id])), merges: ['▁ a'] },
  };
}
