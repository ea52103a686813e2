using System.Diagnostics;
using System.Text.Json;

/// <summary>
/// One model, kept loaded, and measured as standard input asks, a line a request and a line of JSON an answer:
/// the requests of `layerskip bench --requests`, so that both engines are asked in the same words.
/// </summary>
public static class Serve
{
    public static int Run(string path, int threads)
    {
        LlamaModel.LoadLibrary();
        long empty = Environment.WorkingSet;
        long start = Stopwatch.GetTimestamp();
        using LlamaModel model = new(path, threads);
        Answer(new { load_ms = Stopwatch.GetElapsedTime(start).TotalMilliseconds, empty_bytes = empty, cpu = Cpu() });

        while (Console.ReadLine() is { } line)
        {
            try
            {
                Answer(Measure(model, line.Split(' ', StringSplitOptions.RemoveEmptyEntries)));
            }
            catch (Exception e) when (e is FormatException or InvalidOperationException)
            {
                Answer(new { error = e.Message });
            }
        }

        return 0;
    }

    /// <summary>The processor's name, as Linux has it.</summary>
    private static string Cpu() =>
        File.Exists("/proc/cpuinfo") && File.ReadLines("/proc/cpuinfo").FirstOrDefault(line => line.StartsWith("model name")) is { } line
            ? line[(line.IndexOf(':') + 1)..].Trim()
            : "";

    private static object Measure(LlamaModel model, string[] words)
    {
        switch (words)
        {
            case ["decode", var tokens]:
                var (firstMs, msPerToken) = model.Decode(int.Parse(tokens));
                return new { ms_per_token = msPerToken, first_token_ms = firstMs };
            case ["rows", var rows, var times]:
                return new { pass_ms = model.PassMs(int.Parse(rows), int.Parse(times)) };
            case ["prefill", var tokens]:
                return new { tokens_per_second = 1000 * int.Parse(tokens) / model.PrefillMs(int.Parse(tokens)) };
            case ["logits", var ids]:
                var (last, argmax) = model.Logits([.. ids.Split(',').Select(int.Parse)]);
                return new { logits_last = last, argmax };
            default:
                throw new FormatException("there are decode N, rows R TIMES, prefill N and logits ID,ID");
        }
    }

    private static void Answer(object answer) => Console.WriteLine(JsonSerializer.Serialize(answer));
}
