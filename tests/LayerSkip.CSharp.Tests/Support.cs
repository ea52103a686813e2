using Expecto;
using Expecto.CSharp;
using TorchSharp;

namespace LayerSkip.CSharp.Tests;

internal static class Support
{
    public static Test Case(string name, Action body) => Runner.TestCase(name, body);

    // Waits here, so that a fault of the task is a fault of the test.
    public static Test Case(string name, Func<Task> body) =>
        Runner.TestCase(name, () => body().GetAwaiter().GetResult());

    public static void Equal<T>(T actual, T expected, string claim) => Expect.equal(actual, expected, claim);

    public static void Same<T>(IEnumerable<T> actual, IEnumerable<T> expected, string claim) =>
        Expect.sequenceEqual(actual, expected, claim);

    public static void True(bool holds, string claim) => Expect.isTrue(holds, claim);

    public static TException Throws<TException>(Action body)
        where TException : Exception
    {
        try
        {
            body();
        }
        catch (TException e)
        {
            return e;
        }

        throw new AssertException($"no {typeof(TException).Name} was thrown");
    }

    public static async Task<TException> ThrowsAsync<TException>(Func<Task> body)
        where TException : Exception
    {
        try
        {
            await body();
        }
        catch (TException e)
        {
            return e;
        }

        throw new AssertException($"no {typeof(TException).Name} was thrown");
    }

    /// <summary>Checks that the fault is one line that names what is wrong.</summary>
    public static void Refused(Action body, params string[] words)
    {
        var fault = Throws<LayerSkipException>(body);
        True(!fault.Message.Contains('\n'), $"one line: {fault.Message}");
        foreach (var word in words)
        {
            True(fault.Message.Contains(word, StringComparison.Ordinal), $"\"{word}\" is in: {fault.Message}");
        }
    }

    /// <summary>Native tensors that live. Those that an earlier test left to the collector go first.</summary>
    public static long LiveTensors()
    {
        GC.Collect();
        GC.WaitForPendingFinalizers();
        return torch.Tensor.TotalCount;
    }

    /// <summary>Checks that as many native tensors live after a body as before it.</summary>
    public static async Task LeavesNoTensor(Func<Task> body)
    {
        // The first run makes what lives as long as the process.
        await body();
        var before = LiveTensors();
        for (var i = 0; i < 5; i++)
        {
            await body();
        }

        Equal(torch.Tensor.TotalCount, before, "live tensors");
    }

    public static async Task<List<GeneratedToken>> ToList(this IAsyncEnumerable<GeneratedToken> stream)
    {
        List<GeneratedToken> steps = [];
        await foreach (var step in stream)
        {
            steps.Add(step);
        }

        return steps;
    }

    /// <summary>Checks that work ends as cancelled.</summary>
    public static Task Cancelled(Func<Task> body) => ThrowsAsync<OperationCanceledException>(body);

    /// <summary>Hands a body the paths of a folder that is its own, deleted at the end.</summary>
    public static void InFolder(Action<Func<string, string>> body) =>
        InFolder(at =>
        {
            body(at);
            return Task.CompletedTask;
        }).GetAwaiter().GetResult();

    /// <summary>Hands a body the paths of a folder that is its own, deleted at the end.</summary>
    public static async Task InFolder(Func<Func<string, string>, Task> body)
    {
        var folder = Directory.CreateTempSubdirectory("layerskip-");
        try
        {
            await body(name => Path.Combine(folder.FullName, name));
        }
        finally
        {
            folder.Delete(recursive: true);
        }
    }
}

/// <summary>Progress that is heard at once, on the thread that reports it.</summary>
internal sealed class Told<T>(Action<T> hear) : IProgress<T>
{
    public void Report(T value) => hear(value);
}
