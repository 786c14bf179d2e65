import * as fs from 'node:fs';
import * as path from 'node:path';

import type { DType } from '../config/vllm';
import { describeValue } from '../utils/describe-value';
import { KvasirError } from '../utils/errors';
import { closeFile, openRegularFile, RegularFileError } from '../utils/regular-file';
import { readSafetensorsHeader, type SafetensorsDtype, type SafetensorsTensor } from './safetensors';
import { readWeightMap } from './shard-index';

/** Where one tensor lies. Plain numbers besides the `dtype` getter, to hand to the native reader. */
export interface CheckpointEntry {
  readonly name: string;
  /**
   * Element type in Kvasir's names.
   * @throws KvasirError ERR_KVASIR_UNSUPPORTED on reading it when Kvasir has no such type (BOOL, F64, U32, F4, ...).
   */
  readonly dtype: DType;
  /** Element type as the file names it. */
  readonly safetensorsDtype: SafetensorsDtype;
  readonly shape: readonly number[];
  /** Open file descriptor, owned by the Checkpoint and valid until its close(). */
  readonly fd: number;
  /** First byte, counted from the start of the file. It need not be aligned to the element size. */
  readonly byteOffset: number;
  readonly byteLength: number;
  /** Path of the file, for messages. */
  readonly file: string;
}

/** All tensors of a model directory, with their files open. */
export interface Checkpoint {
  readonly tensors: ReadonlyMap<string, CheckpointEntry>;
  /** Bytes of all tensors together. */
  readonly totalBytes: number;
  /** Closes the files; idempotent. */
  close(): Promise<void>;
}

const SINGLE_FILE = 'model.safetensors';
const INDEX_FILE = 'model.safetensors.index.json';
const SUFFIX = '.safetensors';
const PICKLE_SUFFIXES = ['.bin', '.pt', '.pth', '.ckpt'];

const DTYPES: { readonly [K in SafetensorsDtype]?: DType } = {
  F32: 'float32', F16: 'float16', BF16: 'bfloat16', I32: 'int32', I64: 'int64', U8: 'uint8', I8: 'int8', F8_E4M3: 'float8_e4m3',
};

/**
 * Opens the safetensors of a model directory: model.safetensors; or the shards of model.safetensors.index.json; or, with
 * neither, every *.safetensors (consolidated*.safetensors only when there is nothing else). Only headers are read.
 * @throws KvasirError ERR_KVASIR_MODEL_NOT_FOUND (no directory, no weights, a missing shard), ERR_KVASIR_UNSUPPORTED (only
 * pickle or GGUF weights), ERR_KVASIR_CHECKPOINT (a damaged or unsafe file or index).
 */
export async function openCheckpoint(dir: string): Promise<Checkpoint> {
  const names = await listDirectory(dir);
  const checkpoint = new OpenCheckpoint(dir, await fs.promises.realpath(dir));
  try {
    if (names.includes(SINGLE_FILE)) {
      await checkpoint.addFile(SINGLE_FILE, null);
    } else if (names.includes(INDEX_FILE)) {
      for (const [file, claimed] of await readWeightMap(path.join(dir, INDEX_FILE))) await checkpoint.addFile(file, claimed);
    } else {
      for (const file of chooseFiles(dir, names)) await checkpoint.addFile(file, null);
    }
  } catch (error) {
    await checkpoint.close();
    throw error;
  }
  return checkpoint;
}

class OpenCheckpoint implements Checkpoint {
  readonly tensors = new Map<string, CheckpointEntry>();
  totalBytes = 0;
  private readonly fds: number[] = [];

  constructor(
    private readonly dir: string,
    private readonly realDir: string,
  ) {}

  /** Opens one file of the directory. `claimed` holds the tensor names that the index says are in it. */
  async addFile(name: string, claimed: ReadonlySet<string> | null): Promise<void> {
    const file = path.join(this.dir, name);
    await this.checkLocation(file, name);
    const { fd, size } = await this.open(file, name);
    this.fds.push(fd);
    const header = await readSafetensorsHeader(fd, size, name);
    if (claimed !== null) checkClaims(name, claimed, header.tensors);
    for (const [tensorName, tensor] of header.tensors) {
      const other = this.tensors.get(tensorName);
      if (other !== undefined) {
        throw unsafe(`${name}: expected each tensor in one file, received ${describeValue(tensorName)}, which ${path.basename(other.file)} holds too`);
      }
      this.tensors.set(tensorName, new Entry(tensorName, tensor, fd, header.dataOffset, file));
    }
    this.totalBytes += header.dataLength;
  }

  async close(): Promise<void> {
    await Promise.all(this.fds.splice(0).map((fd) => closeFile(fd)));
  }

  /** A link may lead inside the model directory or to a blob of a Hugging Face cache, nowhere else. */
  private async checkLocation(file: string, name: string): Promise<void> {
    let real: string;
    try {
      real = await fs.promises.realpath(file);
    } catch (error) {
      const code = (error as NodeJS.ErrnoException).code;
      if (code !== 'ENOENT') throw unsafe(`${name}: expected a file in the model directory, received ${code ?? String(error)}`, error);
      throw new KvasirError('ERR_KVASIR_MODEL_NOT_FOUND', `expected a file ${file}, which does not exist`, { cause: error });
    }
    const relative = path.relative(this.realDir, real);
    const inside = relative !== '' && !path.isAbsolute(relative) && relative.split(path.sep)[0] !== '..';
    if (!inside && !isHubBlob(real)) {
      throw unsafe(`${name}: expected a file inside the model directory or a Hugging Face cache, received a link to ${real}`);
    }
  }

  private async open(file: string, name: string): Promise<{ fd: number; size: number }> {
    try {
      return await openRegularFile(file);
    } catch (error) {
      if (!(error instanceof RegularFileError)) throw error;
      throw unsafe(`${name}: expected a readable regular file: ${error.message}`, error);
    }
  }
}

class Entry implements CheckpointEntry {
  readonly safetensorsDtype: SafetensorsDtype;
  readonly shape: readonly number[];
  readonly byteOffset: number;
  readonly byteLength: number;

  constructor(
    readonly name: string,
    tensor: SafetensorsTensor,
    readonly fd: number,
    dataOffset: number,
    readonly file: string,
  ) {
    this.safetensorsDtype = tensor.dtype;
    this.shape = tensor.shape;
    this.byteOffset = dataOffset + tensor.begin;
    this.byteLength = tensor.end - tensor.begin;
  }

  get dtype(): DType {
    const dtype = DTYPES[this.safetensorsDtype];
    if (dtype !== undefined) return dtype;
    throw new KvasirError(
      'ERR_KVASIR_UNSUPPORTED',
      `${path.basename(this.file)}: tensor ${describeValue(this.name)}: expected a dtype of ${Object.keys(DTYPES).join(', ')}; received ${this.safetensorsDtype}`,
    );
  }
}

async function listDirectory(dir: string): Promise<string[]> {
  try {
    return await fs.promises.readdir(dir);
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code;
    throw new KvasirError('ERR_KVASIR_MODEL_NOT_FOUND', `expected a readable model directory, received ${dir}: ${code ?? String(error)}`, {
      cause: error,
    });
  }
}

/** The files of a checkpoint without an index, sorted so that every run reads them in one order. */
function chooseFiles(dir: string, names: readonly string[]): string[] {
  const files = names.filter((name) => name.endsWith(SUFFIX)).sort();
  const plain = files.filter((name) => !name.startsWith('consolidated'));
  if (files.length > 0) return plain.length > 0 ? plain : files;
  const pickle = names.find((name) => PICKLE_SUFFIXES.some((suffix) => name.endsWith(suffix)));
  if (pickle !== undefined) {
    throw new KvasirError(
      'ERR_KVASIR_UNSUPPORTED',
      `expected safetensors weights in ${dir}, received ${pickle}: pickle files can run code when they are loaded and are not supported; ` +
        'convert them once in Python with AutoModelForCausalLM.from_pretrained(dir).save_pretrained(out, safe_serialization=True)',
    );
  }
  const gguf = names.find((name) => name.endsWith('.gguf'));
  if (gguf !== undefined) {
    throw new KvasirError('ERR_KVASIR_UNSUPPORTED', `expected safetensors weights in ${dir}, received ${gguf}: GGUF is not supported`);
  }
  throw new KvasirError('ERR_KVASIR_MODEL_NOT_FOUND', `expected ${SINGLE_FILE}, ${INDEX_FILE} or *${SUFFIX} in ${dir}, received none of them`);
}

/** .../models--<org>--<name>/blobs/<sha1 or sha256>, where snapshots of the Hugging Face cache link to. */
function isHubBlob(real: string): boolean {
  const parts = real.split(path.sep);
  const [repo = '', blobs = '', hash = ''] = parts.slice(-3);
  return repo.startsWith('models--') && blobs === 'blobs' && /^([0-9a-f]{40}|[0-9a-f]{64})$/.test(hash);
}

function checkClaims(file: string, claimed: ReadonlySet<string>, held: ReadonlyMap<string, unknown>): void {
  for (const name of claimed) {
    if (!held.has(name)) throw unsafe(`${file}: expected tensor ${describeValue(name)}, which the index places there, received a file without it`);
  }
  for (const name of held.keys()) {
    if (!claimed.has(name)) throw unsafe(`${file}: expected only tensors that the index places there, received ${describeValue(name)}`);
  }
}

function unsafe(message: string, cause?: unknown): KvasirError {
  return new KvasirError('ERR_KVASIR_CHECKPOINT', message, { cause });
}
