/// Conversations, templates and a tokenizer that knows their special tokens; what a run makes of the first.
module LayerSkip.Tests.ChatSampleSupport

open System.IO
open LayerSkip
open LayerSkip.Tests.ChatSupport
open LayerSkip.Tests.FileSupport

/// A tokenizer with merges that knows every special token of the templates.
let tokenizer =
    lazy
        (let specials =
            "<s>" :: "</s>" :: (templates.Value |> List.collect (snd >> tokensIn)) |> List.distinct

         let options = {
             BpeOptions.ofVocabulary (256 + specials.Length + 60) with
                 SpecialTokens = specials
                 MinFrequency = 1
         }

         let text = "user\nassistant\n\nsystem\n\nYes, that is it.\n\n Yes:  yes"

         withFolder (fun folder ->
             BpeTrainer.train options [ text ]
             |> Result.bind (BpeTrainer.write folder)
             |> Check.getOrRaise

             let path = Path.Combine(folder, "tokenizer_config.json")
             let config = File.ReadAllText path
             File.WriteAllText(path, config.Replace("\"eos_token\": \"<s>\"", "\"eos_token\": \"</s>\""))
             Tokenizer.tryLoad folder |> Check.getOrRaise |> Option.get))

let config () = Tiny.config (Tokenizer.vocabularySize tokenizer.Value) 2 2 1 true

/// A model that speaks by a template, for `body`.
let speaking (template: string) (body: Checkpoint -> 'T) : 'T =
    use weights = Weights.random 1L 0.5 Dtype.F64 Device.Cpu { config () with Context = 4096 }
    let model = Checkpoint.ofWeights "spoken" weights (Some tokenizer.Value)
    body { model with Chat = lazy (Ok(Some(parse template))); StopIds = [| 1 |] }

let internal wordsOf (closes: bool) (model: Checkpoint) = {
    (ChatSamples.words closes model |> Check.getOrRaise) with
        Now = now
}

let lessonOf (messages: (string * string) list) : ChatLesson = {
    Place = "line 1"
    Messages = [ for role, content in messages -> ChatMessage.ofRole role content ]
    Learned = [
        for number, (role, _) in List.indexed messages do
            if number > 0 && role = "assistant" then
                number
    ]
    Tools = []
}

let samplesOf (model: Checkpoint) (lesson: ChatLesson) = ChatSamples.ofLesson (wordsOf true model) lesson

let promptOf (model: Checkpoint) (lesson: ChatLesson) (number: int) : int[] =
    let request = { ChatRequest.ofMessages (List.truncate number lesson.Messages) with Now = now }
    Chat.prompt { request with Tools = lesson.Tools } model |> Check.getOrRaise

let idOf (entry: int) = let struct (id, _) = TokenFile.decode entry in id

/// What is learned in samples, stretch by stretch, each with all ids before it.
let stretches (samples: int[] list) : (int[] * int[]) list = [
    for entries in samples do
        for at in 0 .. entries.Length - 1 do
            if entries[at] >= 0 && (at = 0 || entries[at - 1] < 0) then
                entries[.. at - 1] |> Array.map idOf,
                entries[at..] |> Array.takeWhile (fun entry -> entry >= 0)
]

/// An answer as it is read: without the token that ends it, and the white space that templates trim.
let told (ids: int[]) = (Tokenizer.decodeContinuing false tokenizer.Value ids[.. ids.Length - 2]).Trim()

let chatml =
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
