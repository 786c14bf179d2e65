import { rankGoldenTests } from './rank-goldens-suite';
import { hasGloo, hasMpirun } from './ranks';

/** float32: sums are taken in another order, and nothing else differs. */
const ON_CPU = { device: 'cpu', tolerance: 1e-4 } as const;

describe('two ranks that rank 0 started', () => rankGoldenTests({ ...ON_CPU, launcher: 'kvasir', size: 2, available: hasGloo }));
describe('two ranks under mpirun', () => rankGoldenTests({ ...ON_CPU, launcher: 'mpirun', size: 2, available: hasGloo && hasMpirun }));
describe('four ranks that rank 0 started', () => rankGoldenTests({ ...ON_CPU, launcher: 'kvasir', size: 4, available: hasGloo }));
