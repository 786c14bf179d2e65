import * as fs from 'node:fs';
import * as path from 'node:path';
import { makeSafetensors, makeTempDir, type TensorSpec } from '../fixtures/safetensors-file';

/** A copy of a model's files in a temporary directory, to be damaged. The caller calls remove(). */
export class ModelCopy {
  readonly dir = makeTempDir();

  constructor(source: string) {
    for (const name of fs.readdirSync(source)) {
      const file = path.join(source, name);
      if (fs.statSync(file).isFile()) fs.writeFileSync(this.file(name), fs.readFileSync(file));
    }
  }

  file(name: string): string {
    return path.join(this.dir, name);
  }

  remove(): void {
    fs.rmSync(this.dir, { recursive: true });
  }

  editJson(name: string, edit: (value: Record<string, unknown>) => void): void {
    const value = JSON.parse(fs.readFileSync(this.file(name), 'utf8')) as Record<string, unknown>;
    edit(value);
    fs.writeFileSync(this.file(name), JSON.stringify(value));
  }

  /** The tensors of model.safetensors; data are views of one buffer. */
  readTensors(): Record<string, TensorSpec> {
    const bytes = fs.readFileSync(this.file('model.safetensors'));
    const start = 8 + Number(bytes.readBigUInt64LE());
    const header = JSON.parse(bytes.toString('utf8', 8, start)) as Record<string, { dtype: string; shape: number[]; data_offsets: [number, number] }>;
    delete header.__metadata__;
    return Object.fromEntries(
      Object.entries(header).map(([name, { dtype, shape, data_offsets: [from, to] }]) => [name, { dtype, shape, data: bytes.subarray(start + from, start + to) }]),
    );
  }

  /** Changes tensors and writes them anew. */
  editTensors(edit: (tensors: Record<string, TensorSpec>) => void): void {
    const tensors = this.readTensors();
    edit(tensors);
    fs.writeFileSync(this.file('model.safetensors'), makeSafetensors(tensors));
  }

  /** Changes the header of model.safetensors as it stands, valid or not; the data stay where they are. */
  editHeader(edit: (header: Record<string, { dtype: string; shape: number[]; data_offsets: [number, number] }>) => void): void {
    const bytes = fs.readFileSync(this.file('model.safetensors'));
    const start = 8 + Number(bytes.readBigUInt64LE());
    const header = JSON.parse(bytes.toString('utf8', 8, start));
    edit(header);
    const json = Buffer.from(JSON.stringify(header));
    const length = Buffer.alloc(8);
    length.writeBigUInt64LE(BigInt(json.length));
    fs.writeFileSync(this.file('model.safetensors'), Buffer.concat([length, json, bytes.subarray(start)]));
  }
}
