using System.Diagnostics;
using Expecto;
using Expecto.CSharp;
using LayerSkip.CSharp;
using LayerSkip.CSharp.Tests;
using LayerSkip.Extensions.AI;
using Microsoft.Extensions.AI;
using Microsoft.Extensions.Caching.Distributed;
using Microsoft.Extensions.Caching.Memory;
using Microsoft.Extensions.Logging;
using Microsoft.Extensions.Options;
using static LayerSkip.CSharp.Tests.Support;

namespace ChatClientTests;

/// <summary>Under what Microsoft.Extensions.AI puts around a client.</summary>
internal static class PipelineTests
{
    public static Test All { get; } = Runner.TestList("pipelines", [
        Case("UseFunctionInvocation calls the function and goes on with its result, whole and streamed", async () =>
        {
            foreach (var isStreamed in new[] { false, true })
            {
                List<string> zones = [];
                var clock = AIFunctionFactory.Create(
                    (string zone) =>
                    {
                        zones.Add(zone);
                        return "12:00";
                    },
                    "clock");
                Scripted model = new(
                    ["""<tool_call>{"name": "clock", "arguments": {"zone": "UTC"}}</tool_call>"""], ["It is ", "12:00."]);
                var client = new LayerSkipChatClient(model).AsBuilder().UseFunctionInvocation().Build();
                ChatOptions options = new() { Tools = [clock] };
                var text = isStreamed
                    ? (await client.GetStreamingResponseAsync("time?", options).ToChatResponseAsync()).Text
                    : (await client.GetResponseAsync("time?", options)).Text;
                Equal(text, "It is 12:00.", "the answer");
                Same(zones, ["UTC"], "called once");
                var turns = model.Chats[1].Turns;
                Same(turns.Select(turn => turn.Role), ["user", "assistant", "tool"], "the second time");
                Equal((turns[2].Content, turns[2].Name, turns[2].ToolCallId), ("12:00", "clock", turns[1].ToolCalls[0].Id), "the result, by its call");
            }
        }),
        Case("UseDistributedCache answers the same request without the model, whole and streamed", async () =>
        {
            foreach (var isStreamed in new[] { false, true })
            {
                Scripted model = new([["once"]]);
                MemoryDistributedCache cache = new(Options.Create(new MemoryDistributedCacheOptions()));
                var client = new LayerSkipChatClient(model).AsBuilder().UseDistributedCache(cache).Build();
                for (var i = 0; i < 2; i++)
                {
                    var response = isStreamed
                        ? await client.GetStreamingResponseAsync("hi").ToChatResponseAsync()
                        : await client.GetResponseAsync("hi");
                    Equal((response.Text, response.FinishReason), ("once", ChatFinishReason.Stop), "text");
                    Equal(response.Usage!.AdditionalCounts!["drafted_tokens"], 8L, "usage");
                    Equal($"{response.AdditionalProperties!["draft_rounds"]}", "2", "statistics");
                }

                Equal(model.Asked.Count, 1, "asked once");
            }
        }),
        Case("UseOpenTelemetry tells tokens, the model and why it ended", async () =>
        {
            List<Activity> spans = [];
            using ActivityListener listener = new()
            {
                ShouldListenTo = source => source.Name == "tests",
                Sample = (ref ActivityCreationOptions<ActivityContext> _) => ActivitySamplingResult.AllDataAndRecorded,
                ActivityStopped = spans.Add,
            };
            ActivitySource.AddActivityListener(listener);
            var client = new LayerSkipChatClient(new Scripted(["a", "b"])).AsBuilder().UseOpenTelemetry(sourceName: "tests").Build();
            await client.GetResponseAsync("hi", new() { Temperature = 0.5f });
            var tags = spans.Single().TagObjects.ToDictionary(tag => tag.Key, tag => $"{tag.Value}");
            Equal((tags["gen_ai.usage.input_tokens"], tags["gen_ai.usage.output_tokens"]), ("3", "2"), "tokens");
            Equal((tags["gen_ai.response.model"], tags["gen_ai.request.temperature"]), ("scripted", "0.5"), "model and request");
            True(tags.Values.Contains("layerskip"), "who provides");
        }),
        Case("UseLogging logs calls and answers", async () =>
        {
            Heard heard = new();
            using var factory = LoggerFactory.Create(logging => logging.SetMinimumLevel(LogLevel.Trace).AddProvider(heard));
            var client = new LayerSkipChatClient(new Scripted(["secret"])).AsBuilder().UseLogging(factory).Build();
            await client.GetResponseAsync("hi");
            True(heard.Lines.Any(line => line.Contains("secret", StringComparison.Ordinal)), "at trace, what was said");
        }),
        Case("all of them at once", async () =>
        {
            MemoryDistributedCache cache = new(Options.Create(new MemoryDistributedCacheOptions()));
            using var factory = LoggerFactory.Create(_ => { });
            Scripted model = new(["""<tool_call>{"name": "one", "arguments": {}}</tool_call>"""], ["1"]);
            var client = new LayerSkipChatClient(model).AsBuilder()
                .UseDistributedCache(cache).UseFunctionInvocation().UseOpenTelemetry().UseLogging(factory).Build();
            var one = AIFunctionFactory.Create(() => 1, "one");
            Equal((await client.GetResponseAsync("?", new() { Tools = [one] })).Text, "1", "text");
            True(client.GetService<LayerSkipChatClient>() is not null && client.GetService<ILayerSkipModel>() == model, "what is inside is found");
        }),
    ]);

    private sealed class Heard : ILoggerProvider, ILogger
    {
        public List<string> Lines { get; } = [];

        public ILogger CreateLogger(string categoryName) => this;

        public IDisposable? BeginScope<TState>(TState state)
            where TState : notnull => null;

        public bool IsEnabled(LogLevel logLevel) => true;

        public void Log<TState>(
            LogLevel logLevel, EventId eventId, TState state, Exception? exception, Func<TState, Exception?, string> formatter) =>
            Lines.Add(formatter(state, exception));

        public void Dispose()
        {
        }
    }
}
