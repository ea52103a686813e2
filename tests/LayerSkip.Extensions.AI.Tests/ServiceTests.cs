using Expecto;
using Expecto.CSharp;
using LayerSkip.CSharp;
using LayerSkip.CSharp.Tests;
using LayerSkip.Extensions.AI;
using Microsoft.Extensions.AI;
using Microsoft.Extensions.DependencyInjection;
using static LayerSkip.CSharp.Tests.Support;

namespace ChatClientTests;

internal static class ServiceTests
{
    public static Test All(Tiny tiny) => Runner.TestList("services", [
        Case("have one model and one client of it, loaded when first asked for and freed with them", async () =>
        {
            ILayerSkipModel model;
            await using (var services = new ServiceCollection()
                .AddLayerSkip(tiny.Chat, chat: new() { MaxOutputTokens = 5 }).BuildServiceProvider())
            {
                var client = services.GetRequiredService<IChatClient>();
                Equal(client, services.GetRequiredService<LayerSkipChatClient>(), "one client");
                model = services.GetRequiredService<ILayerSkipModel>();
                Equal(client.GetService<ILayerSkipModel>(), model, "one model");
                True((await client.GetResponseAsync("q")).Usage!.OutputTokenCount <= 5, "as it was set up");
            }

            Throws<ObjectDisposedException>(() => model.Generate([1]));
        }),
        Case("have several under keys", async () =>
        {
            await using var services = new ServiceCollection()
                .AddKeyedLayerSkip("a", tiny.Chat, chat: new() { ModelId = "first" })
                .AddKeyedLayerSkip("b", new() { Model = tiny.Chat, Chat = new() { ModelId = "second" } })
                .BuildServiceProvider();
            string Id(string key) => services.GetRequiredKeyedService<IChatClient>(key).GetService<ChatClientMetadata>()!.DefaultModelId!;
            Equal((Id("a"), Id("b")), ("first", "second"), "each its own");
            True(services.GetService<IChatClient>() is null, "none without a key");
        }),
        Case("take a pipeline around it", async () =>
        {
            var services = new ServiceCollection().AddLayerSkip(tiny.Chat);
            services.AddChatClient(provider => provider.GetRequiredService<LayerSkipChatClient>()).UseFunctionInvocation();
            await using var built = services.BuildServiceProvider();
            var client = built.GetRequiredService<IChatClient>();
            True(client.GetService<FunctionInvokingChatClient>() is not null, "the pipeline");
            Equal(client.GetService<LayerSkipChatClient>(), built.GetRequiredService<LayerSkipChatClient>(), "around the one client");
        }),
        Case("say what cannot be loaded when it is asked for", () =>
        {
            using var services = new ServiceCollection().AddLayerSkip("/nowhere/model").BuildServiceProvider();
            Refused(() => services.GetRequiredService<IChatClient>(), "/nowhere/model");
            Throws<ArgumentException>(() => new ServiceCollection().AddLayerSkip(""));
        }),
    ]);
}
