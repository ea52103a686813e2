// dotnet run samples/chat-client.cs -- MODEL [QUESTION]     a chat client of Microsoft.Extensions.AI, by dependency injection; MODEL is a
// folder, a .gguf file or a name on the hub, as HuggingFaceTB/SmolLM2-135M-Instruct
#:project ../src/LayerSkip.Extensions.AI/LayerSkip.Extensions.AI.csproj
#:package Microsoft.Extensions.DependencyInjection@10.0.13
#:property PublishAot=false
#:property GenerateDocumentationFile=false

using LayerSkip.CSharp;
using Microsoft.Extensions.AI;
using Microsoft.Extensions.DependencyInjection;

if (args is not [var path, ..])
{
    Console.Error.WriteLine("name a model that was trained to chat: a folder, a .gguf file, or one on the hub, as HuggingFaceTB/SmolLM2-135M-Instruct");
    return 2;
}

try
{
    await using var services = new ServiceCollection().AddLayerSkip(path).BuildServiceProvider();
    var client = services.GetRequiredService<IChatClient>();

    ChatMessage[] messages = [new(ChatRole.User, args.ElementAtOrDefault(1) ?? "What is the capital of France?")];
    ChatOptions options = new() { Instructions = "You answer in one sentence.", MaxOutputTokens = 60 };
    await foreach (var update in client.GetStreamingResponseAsync(messages, options))
    {
        Console.Write(update.Text);
        foreach (var usage in update.Contents.OfType<UsageContent>())
        {
            var counts = usage.Details.AdditionalCounts!;
            Console.WriteLine($"\n\n{usage.Details.InputTokenCount} tokens in, {usage.Details.OutputTokenCount} out; "
                + $"{counts["drafted_tokens"]} drafted, {counts["accepted_tokens"]} of them kept");
        }
    }

    return 0;
}
catch (LayerSkipException e)
{
    Console.Error.WriteLine(e.Message);
    return 2;
}
