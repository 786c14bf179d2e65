import { prefixCacheSuite } from './prefix-cache-suite';

describe('prefix cache (kvasir-tales-5m)', () => prefixCacheSuite());
