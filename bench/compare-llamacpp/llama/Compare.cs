using System.Diagnostics;
using System.Text.Json;

/// <summary>How the engines are measured; the defaults suit models of up to 1B.</summary>
public sealed record CompareOptions
{
    public IReadOnlyList<string> Models { get; init; } = [];
    public int Rounds { get; init; } = 5;
    public int Tokens { get; init; } = 48;
    public int Times { get; init; } = 7;
    public int Prefill { get; init; } = 512;
    public int Threads { get; init; } = Environment.ProcessorCount;
    public bool Json { get; init; }
    /// <summary>node-llama-cpp too, whose builds are for more kinds of processor.</summary>
    public bool Node { get; init; }
    /// <summary>llama.cpp alone.</summary>
    public bool TheirsOnly { get; init; }
    /// <summary>Exit layer and draft length at which ours also speculates, the layers after the exit adding nothing.</summary>
    public (int Exit, int Draft)? Speculate { get; init; }
    /// <summary>The command's assembly; none: this project's own, built where it is not there.</summary>
    public string? Command { get; init; }
    /// <summary>Further options of layerskip bench.</summary>
    public IReadOnlyList<string> Further { get; init; } = [];

    /// <summary>Reads a command line; a word that is no option is a model.</summary>
    public static CompareOptions Parse(ReadOnlySpan<string> words) => words switch
    {
        [] => new(),
        ["--", .. var further] => new() { Further = [.. further] },
        ["--json", .. var rest] => Parse(rest) with { Json = true },
        ["--node", .. var rest] => Parse(rest) with { Node = true },
        ["--theirs-only", .. var rest] => Parse(rest) with { TheirsOnly = true },
        ["--rounds", var n, .. var rest] => Parse(rest) with { Rounds = int.Parse(n) },
        ["--tokens", var n, .. var rest] => Parse(rest) with { Tokens = int.Parse(n) },
        ["--times", var n, .. var rest] => Parse(rest) with { Times = int.Parse(n) },
        ["--prefill", var n, .. var rest] => Parse(rest) with { Prefill = int.Parse(n) },
        ["--threads", var n, .. var rest] => Parse(rest) with { Threads = int.Parse(n) },
        ["--speculate", var exit, var draft, .. var rest] => Parse(rest) with { Speculate = (int.Parse(exit), int.Parse(draft)) },
        ["--layerskip", var path, .. var rest] => Parse(rest) with { Command = path },
        [['-', ..] unknown, ..] => throw new FormatException($"unknown option {unknown}, or it lacks its value"),
        [var model, .. var rest] => Parse(rest).After(model),
    };

    private CompareOptions After(string model) => this with { Models = [model, .. Models] };
}

/// <summary>What one engine gave for one number, a sample a round.</summary>
public sealed record Samples(string Engine, string Key, List<double> Values)
{
    public double Median => LlamaModel.Median(Values);
}

/// <summary>Both engines on one file, asked in turn.</summary>
public sealed record Comparison(string Model, IReadOnlyList<Engine> Engines, IReadOnlyList<Samples> Samples)
{
    public Samples? Of(string engine, string key) => Samples.FirstOrDefault(s => s.Engine == engine && s.Key == key);
}

public static class Compare
{
    public const string Theirs = "llama.cpp", Node = "node-llama-cpp", Ours = "layerskip";

    public static int Run(CompareOptions options)
    {
        if (options.Models.Count == 0) throw new FormatException("no model is named");
        int failed = 0;

        foreach (string model in options.Models)
        {
            try
            {
                OfFile(model, options);
            }
            catch (InvalidOperationException e)
            {
                // An engine has said why; the other files are still worth measuring.
                Console.Error.WriteLine($"{model}: {e.Message}");
                failed = 1;
            }
        }

        return failed;
    }

    private static string Root()
    {
        DirectoryInfo? folder = new(AppContext.BaseDirectory);
        while (folder is not null && !File.Exists(Path.Combine(folder.FullName, "LayerSkip.FSharp.sln"))) folder = folder.Parent;
        return folder?.FullName ?? throw new InvalidOperationException("this program is not inside the project");
    }

    private static void Must(string file, string folder, params string[] arguments)
    {
        using Process process = Process.Start(new ProcessStartInfo(file, arguments) { WorkingDirectory = folder, RedirectStandardOutput = true })!;
        process.StandardOutput.ReadToEnd();
        process.WaitForExit();
        if (process.ExitCode != 0) throw new InvalidOperationException($"{file} {string.Join(' ', arguments)} failed");
    }

    private static string Command(CompareOptions options)
    {
        string root = Root(), built = Path.Combine(root, "src/LayerSkip.Cli/bin/Release/net10.0/LayerSkip.Cli.dll");
        if (options.Command is { } named) return named;
        if (!File.Exists(built)) Must("dotnet", root, "build", "src/LayerSkip.Cli", "-c", "Release", "-v", "q");
        return built;
    }

    /// <summary>The engines, each with the model loaded, all from a warm page cache.</summary>
    private static IEnumerable<Engine> Start(string model, CompareOptions options)
    {
        using (FileStream file = File.OpenRead(model)) file.CopyTo(Stream.Null, 1 << 20);
        string threads = options.Threads.ToString();
        yield return new(Theirs, "dotnet", Environment.GetCommandLineArgs()[0], "serve", model, threads);

        if (options.Node)
        {
            string folder = Path.Combine(Root(), "bench/compare-llamacpp");
            if (!Directory.Exists(Path.Combine(folder, "node_modules")))
                Must("npm", folder, "install", "--ignore-scripts", "--no-package-lock", "--no-audit", "--no-fund");
            yield return new(Node, "node", Path.Combine(folder, "llama.mjs"), model, "--serve", "--threads", threads);
        }

        if (!options.TheirsOnly)
        {
            IEnumerable<string> speculate = options.Speculate is var (exit, draft)
                ? ["--exit-layer", $"{exit}", "--draft-length", $"{draft}", "--identity-after", $"{exit}"]
                : [];
            yield return new(Ours, "dotnet",
                [Command(options), "bench", "--requests", "--model", model, "--threads", threads, .. speculate, .. options.Further]);
        }
    }

    private static void OfFile(string model, CompareOptions options)
    {
        Engine[] engines = [.. Start(model, options)];
        List<Samples> samples = [];

        void Ask(Engine engine, string key, string request, string field) =>
            Engine.Number(engine.Ask(request), field, value =>
            {
                if (samples.Find(s => s.Engine == engine.Name && s.Key == key) is { } known) known.Values.Add(value);
                else samples.Add(new(engine.Name, key, [value]));
            });

        try
        {
            foreach (Engine engine in engines)
            {
                engine.Ask("decode 8");
                engine.Ask("prefill 16");
            }

            for (int round = 0; round < options.Rounds; round++)
            {
                // Whoever is first in one round is last in the next.
                Engine[] turn = [.. round % 2 == 0 ? engines : engines.Reverse()];
                foreach (Engine engine in turn) Ask(engine, "decode", $"decode {options.Tokens}", "ms_per_token");
                if (options.Speculate is not null && engines[^1] is { Name: Ours } ours)
                    Ask(ours, "speculate", $"speculate {options.Tokens}", "ms_per_token");
                foreach (int rows in (int[])[1, 5, 8])
                    foreach (Engine engine in turn) Ask(engine, $"rows {rows}", $"rows {rows} {options.Times}", "pass_ms");
                foreach (Engine engine in turn) Ask(engine, "prefill", $"prefill {options.Prefill}", "tokens_per_second");
                foreach (Engine engine in turn)
                {
                    engine.TakePeak();
                    Ask(engine, "bandwidth", "bandwidth", "gb_s");
                }

                Console.Error.WriteLine($"{Path.GetFileName(model)}: round {round + 1} of {options.Rounds}");
            }

            Report.Tell(new(model, engines, samples), options);
        }
        finally
        {
            foreach (Engine engine in engines) engine.Dispose();
        }
    }
}
