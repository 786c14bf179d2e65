import * as fs from 'node:fs';
import * as os from 'node:os';
import * as path from 'node:path';
import { loadTokenizerIfPresent, Tokenizer } from '../../lib/tokenizer/tokenizer';
import { tinyByteFallbackJson, tinyByteLevelJson } from './fixtures';

type Json = Record<string, unknown>;

const withCode = (code: string): Error => expect.objectContaining({ code }) as Error;

describe('Tokenizer', () => {
  const tokenizer = Tokenizer.fromJson(tinyByteLevelJson(), { bos_token: '<s>', eos_token: { content: '</s>' }, unk_token: null });

  it('encodes, with and without special tokens', () => {
    const plain = tokenizer.encode('hello', { addSpecialTokens: false });
    expect(plain.map((id) => tokenizer.idToToken(id))).toEqual(['hel', 'l', 'o']);
    expect(tokenizer.encode('hello')).toEqual([0, ...plain]);
    expect(tokenizer.encode('')).toEqual([0]);
    expect(tokenizer.encode('', { addSpecialTokens: false })).toEqual([]);
  });

  it('takes special tokens in a text for what they are', () => {
    expect(tokenizer.encode('a</s>', { addSpecialTokens: false }).at(-1)).toBe(1);
  });

  it('survives lone surrogates', () => {
    const ids = tokenizer.encode('a\uD83D b \uDE00\uD83D', { addSpecialTokens: false });
    expect(tokenizer.decode(ids)).toBe('a\uFFFD b \uFFFD\uFFFD');
    expect(tokenizer.decode(tokenizer.encode('\uD83D\uDE00'))).toBe('😀');
  });

  it('knows its special tokens', () => {
    expect(tokenizer).toMatchObject({ bosTokenId: 0, eosTokenId: 1, unkTokenId: null, padTokenId: null, vocabSize: 260, maxTokenId: 259, chatTemplate: null });
    expect([...tokenizer.specialTokenIds]).toEqual([0, 1]);
    expect(tokenizer.specialTokens).toEqual({ bos_token: '<s>', eos_token: '</s>' });
    expect(tokenizer.tokenToId('</s>')).toBe(1);
    expect(tokenizer.tokenToId('constructor')).toBeNull();
  });

  it('decodes nothing to nothing and ignores ids that name no token', () => {
    expect(tokenizer.decode([])).toBe('');
    expect(tokenizer.decode([260, 2 ** 31, ...tokenizer.encode('hel'), 5000])).toBe('hel');
    expect(tokenizer.idToToken(260)).toBeNull();
    expect(tokenizer.idToToken(2 ** 31)).toBeNull();
    expect(tokenizer.tokenText(2 ** 31)).toBe('');
  });

  it.each([[-1], [1.5], [NaN], ['1']])('refuses to decode the id %p', (id) => {
    expect(() => tokenizer.decode([id as number])).toThrow(withCode('ERR_KVASIR_TOKENIZER'));
  });

  it('refuses to encode what is no text', () => {
    expect(() => tokenizer.encode(5 as unknown as string)).toThrow(withCode('ERR_KVASIR_TOKENIZER'));
  });

  it('shows a token as it stands in the middle of a text', () => {
    const byteFallback = Tokenizer.fromJson(tinyByteFallbackJson());
    expect(byteFallback.tokenText(byteFallback.tokenToId('▁a') ?? -1)).toBe(' a');
    expect(byteFallback.tokenText(byteFallback.tokenToId('<0xF0>') ?? -1)).toBe('\uFFFD');
    expect(byteFallback.tokenText(byteFallback.tokenToId('<0x0A>') ?? -1)).toBe('\n');
  });

  it('spells unknown characters in bytes, and falls back to the unknown token where it cannot', () => {
    const json = tinyByteFallbackJson();
    const byteFallback = Tokenizer.fromJson(json, { unk_token: '<unk>' });
    expect(byteFallback.decode(byteFallback.encode('b😀'))).toBe('b😀');
    const without = Tokenizer.fromJson({ ...json, model: { ...(json.model as Json), byte_fallback: false } }, { unk_token: '<unk>' });
    expect(without.encode('b😀')).toContain(without.unkTokenId);
  });

  it('declares tokens that only tokenizer_config.json names special', () => {
    const json = { ...tinyByteLevelJson(), added_tokens: [], post_processor: null };
    const plain = Tokenizer.fromJson(json);
    expect(plain.encode('</s>')).not.toEqual([1]);
    const named = Tokenizer.fromJson(json, { eos_token: '</s>', added_tokens_decoder: { 300: { content: '<new>', special: true } } });
    expect(named.encode('</s><new>')).toEqual([1, 300]);
    expect(named.decode([1, 300])).toBe('');
    expect(named.vocabSize).toBe(261);
    expect(Tokenizer.fromJson(json, {}, { specialTokensMap: { eos_token: '</s>' } }).eosTokenId).toBe(1);
  });

  it('allows holes between ids', () => {
    const json = tinyByteLevelJson();
    const model = json.model as { vocab: Json };
    model.vocab = { ...model.vocab, hel: 900 };
    const holed = Tokenizer.fromJson(json);
    expect(holed.encode('hel', { addSpecialTokens: false })).toEqual([900]);
    expect(holed.decode([899, 900])).toBe('hel');
    expect(holed).toMatchObject({ vocabSize: 260, maxTokenId: 900 });
  });

  it('reads templates of every form', () => {
    const list = [{ name: 'default', template: 'd' }, { name: 'tool_use', template: 't' }];
    expect(Tokenizer.fromJson(tinyByteLevelJson(), { chat_template: 'x' }).chatTemplate).toBe('x');
    const named = Tokenizer.fromJson(tinyByteLevelJson(), { chat_template: list }, { chatTemplate: 'file' });
    expect([...named.chatTemplates]).toEqual([['default', 'file'], ['tool_use', 't']]);
    expect(() => Tokenizer.fromJson(tinyByteLevelJson(), { chat_template: [{ name: 1 }] })).toThrow(withCode('ERR_KVASIR_TOKENIZER'));
  });
});

describe('damaged tokenizer.json', () => {
  const change = (changes: Json): Json => ({ ...tinyByteLevelJson(), ...changes });
  const model = (changes: Json): Json => change({ model: { ...(tinyByteLevelJson().model as Json), ...changes } });
  const vocab = (changes: Json): Json => model({ vocab: { ...((tinyByteLevelJson().model as Json).vocab as Json), ...changes } });

  it.each<[string, unknown]>([
    ['null', null],
    ['a list', []],
    ['no model', change({ model: undefined })],
    ['an empty vocabulary', model({ vocab: {}, merges: [] })],
    ['a vocabulary that is no object', model({ vocab: 'x' })],
    ['a negative id', vocab({ zz: -1 })],
    ['a fraction as id', vocab({ zz: 1.5 })],
    ['a string as id', vocab({ zz: '7' })],
    ['a huge id', vocab({ zz: 2 ** 31 })],
    ['two tokens of one id', vocab({ zz: 5 })],
    ['merges that are no list', model({ merges: {} })],
    ['a merge of three parts', model({ merges: ['h e l'] })],
    ['a merge of an unknown token', model({ merges: ['zz h'] })],
    ['a merge to an unknown token', model({ merges: ['o o'] })],
    ['an unknown kind of model', model({ type: 'WordLevel' })],
    ['added tokens that are no list', change({ added_tokens: 'x' })],
    ['an added token without content', change({ added_tokens: [{ id: 0 }] })],
    ['an empty added token', change({ added_tokens: [{ id: 0, content: '' }] })],
    ['an added token with a negative id', change({ added_tokens: [{ id: -3, content: 'x' }] })],
    ['two added tokens of one id', change({ added_tokens: [{ id: 0, content: '<s>' }, { id: 0, content: 'x' }] })],
    ['a post-processor with an unknown token', change({ post_processor: { type: 'TemplateProcessing', single: [{ SpecialToken: { id: '<no>', type_id: 0 } }], pair: [] } })],
    ['an unknown normalizer', change({ normalizer: { type: 'Evil' } })],
    ['an unknown pre-tokenizer', change({ pre_tokenizer: { type: 'Evil' } })],
    ['a huge pattern', change({ pre_tokenizer: { type: 'Split', pattern: { Regex: '(a|'.repeat(10_000) }, behavior: 'Isolated', invert: false } })],
    ['a pattern that is no regular expression', change({ pre_tokenizer: { type: 'Split', pattern: { Regex: '((' }, behavior: 'Isolated', invert: false } })],
    ['a pipeline nested too deep', change({ normalizer: Array.from({ length: 40 }).reduce((inner) => ({ type: 'Sequence', normalizers: [inner] }), { type: 'NFC' }) })],
  ])('%s is refused with a code', (_name, json) => {
    expect(() => Tokenizer.fromJson(json)).toThrow(withCode('ERR_KVASIR_TOKENIZER'));
  });

  it('a token named like a property of objects is a token like any other', () => {
    const json = tinyByteLevelJson();
    const added = [...(json.added_tokens as Json[]), { id: 400, content: '__proto__', special: false }, { id: 401, content: 'constructor', special: false }];
    const tokenizer = Tokenizer.fromJson({ ...json, added_tokens: added });
    expect(tokenizer.encode('__proto__constructor', { addSpecialTokens: false })).toEqual([400, 401]);
    expect(tokenizer.decode([400, 401])).toBe('__proto__constructor');
  });
});

describe('loading', () => {
  let dir: string;
  beforeEach(() => (dir = fs.mkdtempSync(path.join(os.tmpdir(), 'kvasir-tokenizer-'))));
  afterEach(() => fs.rmSync(dir, { recursive: true }));

  const write = (name: string, content: unknown): void => fs.writeFileSync(path.join(dir, name), typeof content === 'string' ? content : JSON.stringify(content));

  it('reads all files; chat_template.jinja goes before tokenizer_config.json', async () => {
    write('tokenizer.json', tinyByteLevelJson());
    write('tokenizer_config.json', { bos_token: '<s>', chat_template: 'config' });
    write('special_tokens_map.json', { bos_token: '</s>', eos_token: '</s>' });
    const tokenizer = await Tokenizer.load(dir);
    expect(tokenizer).toMatchObject({ bosTokenId: 0, eosTokenId: 1, chatTemplate: 'config' });
    write('chat_template.jinja', 'file');
    expect((await Tokenizer.load(dir)).chatTemplate).toBe('file');
  });

  it('needs nothing but tokenizer.json', async () => {
    write('tokenizer.json', tinyByteLevelJson());
    expect((await Tokenizer.load(dir)).encode('hel')).toEqual([0, 259]);
  });

  it('says what is missing', async () => {
    await expect(Tokenizer.load(path.join(dir, 'nowhere'))).rejects.toEqual(withCode('ERR_KVASIR_MODEL_NOT_FOUND'));
    await expect(Tokenizer.load(dir)).rejects.toMatchObject({ code: 'ERR_KVASIR_MODEL_NOT_FOUND', message: expect.stringContaining('tokenizer.json') as string });
    await expect(loadTokenizerIfPresent(path.join(dir, 'nowhere'))).rejects.toEqual(withCode('ERR_KVASIR_MODEL_NOT_FOUND'));
    expect(await loadTokenizerIfPresent(dir)).toBeNull();
  });

  it.each(['', '{', '[]', '"x"', '\0\0\0', '{"model": '.repeat(1000)])('refuses garbled contents %#', async (content) => {
    write('tokenizer.json', content);
    await expect(loadTokenizerIfPresent(dir)).rejects.toEqual(withCode('ERR_KVASIR_TOKENIZER'));
  });

  it('refuses a garbled tokenizer_config.json', async () => {
    write('tokenizer.json', tinyByteLevelJson());
    write('tokenizer_config.json', '{"bos_token": 5}');
    await expect(Tokenizer.load(dir)).rejects.toEqual(withCode('ERR_KVASIR_TOKENIZER'));
    write('tokenizer_config.json', '{');
    await expect(Tokenizer.load(dir)).rejects.toEqual(withCode('ERR_KVASIR_TOKENIZER'));
  });

  it('refuses what is no regular file, and files that are too large', async () => {
    fs.mkdirSync(path.join(dir, 'tokenizer.json'));
    await expect(Tokenizer.load(dir)).rejects.toEqual(withCode('ERR_KVASIR_TOKENIZER'));
    fs.rmdirSync(path.join(dir, 'tokenizer.json'));
    write('tokenizer.json', tinyByteLevelJson());
    write('chat_template.jinja', '');
    fs.truncateSync(path.join(dir, 'chat_template.jinja'), 1024 * 1024 + 1);
    await expect(Tokenizer.load(dir)).rejects.toEqual(withCode('ERR_KVASIR_TOKENIZER'));
  });
});
