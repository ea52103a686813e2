// llama.cpp beside LayerSkip.FSharp on the same GGUF files. Outside the solution, so `dotnet build` at the root leaves it and
// llama.cpp's 150 MB alone; `dotnet run --project bench/compare-llamacpp/llama` restores LLamaSharp (llama.cpp with its CPU builds)
// from the NuGet source that the machine is set up with, and takes the build of the processor's kind. bench/README.md tells more.
using LLama;
using LLama.Exceptions;
using LLama.Native;

const string Usage = """
    LlamaBench compare MODEL.gguf ... [--rounds 5] [--tokens 48] [--times 7] [--prefill 512] [--threads N] [--speculate E D]
                       [--node] [--theirs-only] [--layerskip LayerSkip.Cli.dll] [--json] [-- further options of layerskip bench]
    LlamaBench serve MODEL.gguf [THREADS]           answers on standard input: decode N, rows R TIMES, prefill N, logits 1,2,3
    LlamaBench quantise IN.gguf OUT.gguf TYPE       llama.cpp's quantiser: Q8_0, Q4_0, Q4_K_M, IQ4_XS, ...
    LlamaBench make-model 1b|8b TYPE OUT.gguf       seeded random weights in Llama 3's shapes
    """;

try
{
    return Run(args);
}
catch (Exception e) when (e is FormatException or InvalidOperationException or IOException or RuntimeError)
{
    Console.Error.WriteLine($"LlamaBench: {e.Message}");
    return 2;
}

static int Run(string[] args)
{
    switch (args)
    {
        case ["compare", .. var rest]:
            return Compare.Run(CompareOptions.Parse(rest));
        case ["serve", var path]:
            return Serve.Run(path, Environment.ProcessorCount);
        case ["serve", var path, var threads]:
            return Serve.Run(path, int.Parse(threads));
        case ["quantise", var source, var target, var type]:
            LlamaModel.LoadLibrary();
            return LLamaQuantizer.Quantize(source, target, TypeOf(type), Environment.ProcessorCount, true) ? 0 : 1;
        case ["make-model", var shape, var type, var target] when Shape.Known.ContainsKey(shape):
            LlamaModel.LoadLibrary();
            RandomModel.Write(target, Shape.Known[shape], TypeOf(type), seed: 1);
            return 0;
        default:
            Console.Error.WriteLine(Usage);
            return 2;
    }
}

static LLamaFtype TypeOf(string name) =>
    Enum.TryParse("MOSTLY_" + name, out LLamaFtype type) ? type : throw new FormatException($"llama.cpp has no type {name}");
