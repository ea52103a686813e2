using System.Diagnostics;
using System.Text.Json;

/// <summary>A process that has loaded one model and answers a line of JSON to each request.</summary>
public sealed class Engine : IDisposable
{
    private readonly Process process;
    private readonly JsonElement ready;

    /// <summary>Starts it, and waits until it has loaded.</summary>
    public Engine(string name, string file, params IEnumerable<string> arguments)
    {
        Name = name;
        long start = Stopwatch.GetTimestamp();
        process = Process.Start(new ProcessStartInfo(file, arguments) { RedirectStandardInput = true, RedirectStandardOutput = true })!;
        ready = Answer();
        double loadedMs = Stopwatch.GetElapsedTime(start).TotalMilliseconds;
        Loaded = Resident.Now;
        Number(Ask("decode 2"), "first_token_ms", first => FirstTokenMs = loadedMs + first);
    }

    public string Name { get; }

    /// <summary>Bytes resident after loading, without what the process had before.</summary>
    public long Loaded { get; }

    /// <summary>The same at the most, before bandwidth is measured.</summary>
    public long Peak { get; private set; }

    /// <summary>Takes the peak once: the measurement of bandwidth, which comes after, reads a GiB of its own.</summary>
    public void TakePeak()
    {
        if (Peak == 0) Peak = Resident.Most;
    }

    /// <summary>From the start of the process to a first token, page cache warm.</summary>
    public double? FirstTokenMs { get; private set; }

    public double LoadMs => ready.GetProperty("load_ms").GetDouble();

    /// <summary>Something that it told when it was ready; "" where it does not tell that.</summary>
    public string Told(string key) => ready.TryGetProperty(key, out JsonElement value) ? value.ToString() : "";

    public JsonElement Ask(string request)
    {
        process.StandardInput.WriteLine(request);
        process.StandardInput.Flush();
        return Answer();
    }

    /// <summary>Passes on a number of an answer, where it has that.</summary>
    public static void Number(JsonElement answer, string key, Action<double> take)
    {
        if (answer.TryGetProperty(key, out JsonElement value)) take(value.GetDouble());
    }

    private (long Now, long Most) Resident
    {
        get
        {
            long empty = ready.GetProperty("empty_bytes").GetInt64();
            process.Refresh();
            return (process.WorkingSet64 - empty, process.PeakWorkingSet64 - empty);
        }
    }

    private JsonElement Answer() =>
        process.StandardOutput.ReadLine() is { } line
            ? JsonDocument.Parse(line).RootElement
            : throw new InvalidOperationException($"{Name} ended without an answer");

    public void Dispose()
    {
        process.StandardInput.Close();
        process.WaitForExit();
        process.Dispose();
    }
}
