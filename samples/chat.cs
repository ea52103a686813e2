// dotnet run samples/chat.cs -- MODEL     a conversation in the terminal; MODEL: a folder, a .gguf file, or org/name. /undo, /again, /new, an empty line ends
#:project ../src/LayerSkip.CSharp/LayerSkip.CSharp.csproj
#:property PublishAot=false
#:property GenerateDocumentationFile=false

using LayerSkip.CSharp;

if (args is not [var path, ..])
{
    Console.Error.WriteLine("name a model that was trained to chat: a folder, a .gguf file, or one on the hub, as HuggingFaceTB/SmolLM2-135M-Instruct");
    return 2;
}

try
{
    await using var model = await LayerSkipModel.LoadAsync(path, null, new Bar());
    if (model.Info.ChatTemplate is null)
    {
        Console.Error.WriteLine($"{path}: the model has no chat template; name one that was trained to chat");
        return 2;
    }

    var chat = new ChatSession(model, new() { SystemMessage = "You answer in one or two sentences.", Generate = new() { MaxNewTokens = 200 } });
    while (Ask() is { Length: > 0 } said)
    {
        var dropped = chat.DroppedTurnCount;
        try
        {
            await Answer(chat, said);
        }
        catch (LayerSkipException e)
        {
            // As a message longer than the context: the conversation is as it was.
            Console.WriteLine(e.Message);
        }

        if (chat.DroppedTurnCount > dropped)
        {
            Console.WriteLine($"[the context is full: the model is not told the {chat.DroppedTurnCount} oldest turns any more]");
        }
    }

    return 0;
}
catch (LayerSkipException e)
{
    Console.Error.WriteLine(e.Message);
    return 2;
}

static async Task Answer(ChatSession chat, string said)
{
    if (said == "/undo")
    {
        Console.WriteLine(chat.Undo() ? "taken back" : "nothing to take back");
    }
    else if (said == "/new")
    {
        chat.Clear();
    }
    else if (said == "/again" && chat.History is not [.., { Role: "assistant" }])
    {
        Console.WriteLine("nothing was answered yet");
    }
    else if (said == "/again")
    {
        Tell((await chat.RegenerateAsync(new() { MaxNewTokens = 200, Temperature = 0.8, Seed = Random.Shared.Next() })).Result, whole: true);
    }
    else
    {
        await foreach (var step in chat.StreamAsync(said))
        {
            Console.Write(step.Text);
            if (step.Result is { } result)
            {
                Tell(result, whole: false);
            }
        }
    }
}

static string? Ask()
{
    Console.Write("> ");
    return Console.ReadLine();
}

static void Tell(GenerateResult result, bool whole) =>
    Console.WriteLine($"{(whole ? result.Text : "")}\n[{result.Timings.TokensPerSecond:F0} tokens a second, the first after "
        + $"{result.Timings.TimeToFirstToken.TotalMilliseconds:F0} ms; {result.ReusedTokenCount} of {result.PromptIds.Count} tokens were read before]");

internal sealed class Bar : IProgress<LoadProgress>
{
    public void Report(LoadProgress value)
    {
        if (value is { Stage: LoadStage.Downloading, BytesTotal: > 0 })
        {
            Console.Error.Write($"\r{value.FilesDone} of {value.FilesTotal} files, {100 * value.BytesDone / value.BytesTotal} % ");
        }
    }
}
