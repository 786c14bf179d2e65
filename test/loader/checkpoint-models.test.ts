import * as fs from 'node:fs';
import * as path from 'node:path';

import { openCheckpoint } from '../../lib/loader/checkpoint';
import { describeShared, hasShared, sharedPath } from '../fixtures/shared';

/** Every folder below models/ that holds weights. */
function modelDirs(): string[] {
  if (!hasShared) return ['models'];
  const found = fs.readdirSync(sharedPath('models'), { recursive: true, encoding: 'utf8' });
  return [...new Set(found.filter((file) => file.endsWith('.safetensors')).map((file) => path.join('models', path.dirname(file))))].sort();
}

describeShared('real checkpoints', () => {
  it.each(modelDirs())('opens %s', async (dir) => {
    const checkpoint = await openCheckpoint(sharedPath(dir));
    try {
      const sum = [...checkpoint.tensors.values()].reduce((bytes, entry) => bytes + entry.byteLength, 0);
      expect(sum).toBe(checkpoint.totalBytes);
      expect([...checkpoint.tensors.values()].every((entry) => entry.dtype.length > 0)).toBe(true);
      expect(checkpoint.tensors.size).toBeGreaterThan(10);
    } finally {
      await checkpoint.close();
    }
  });

  it('finds the same tensors in the sharded copy of stories260K', async () => {
    const whole = await openCheckpoint(sharedPath('models/stories260K'));
    const sharded = await openCheckpoint(sharedPath('models/stories260K-bf16-sharded'));
    try {
      expect([...sharded.tensors.keys()].sort()).toEqual([...whole.tensors.keys()].sort());
      expect(new Set([...sharded.tensors.values()].map((entry) => entry.fd)).size).toBe(3);
      expect(sharded.totalBytes).toBe(520064);
    } finally {
      await Promise.all([whole.close(), sharded.close()]);
    }
  });
});
