using System.Runtime.CompilerServices;

[assembly: InternalsVisibleTo("LayerSkip")]
[assembly: InternalsVisibleTo("LayerSkip.Tests")]
[assembly: InternalsVisibleTo("LayerSkip.Benchmarks")]
