/** The package's typings are those of an ES module, its `require` entry is CommonJS: loaded here once with the right types. */
type Package = typeof import('@huggingface/tokenizers', { with: { 'resolution-mode': 'import' } });

const backend = require('@huggingface/tokenizers') as Package;

export type Backend = InstanceType<Package['Tokenizer']>;
export const Backend: Package['Tokenizer'] = backend.Tokenizer;
