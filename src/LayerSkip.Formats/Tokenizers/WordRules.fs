namespace LayerSkip

/// How a kind of byte-level tokenizer makes words.
type internal WordRule = {
    /// The regular expressions of the stages, in order.
    Patterns: string list
    /// Whole words that are pieces are not merged.
    IgnoresMerges: bool
    /// A text begins with BOS where the file does not say.
    AddsBos: bool
    /// Words are made of Unicode's form C.
    IsNormalized: bool
}

/// llama.cpp's names of pre-tokenizers, with the rules of the tokenizers that they stand for.
[<RequireQualifiedAccess>]
module internal WordRules =
    let private plain patterns = {
        Patterns = patterns
        IgnoresMerges = false
        AddsBos = false
        IsNormalized = false
    }

    let private contractions = @"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])"
    let private spaces = @"\s*[\r\n]+|\s+(?!\S)|\s+"

    /// Contractions, words with one sign before them, so many digits at a time, signs.
    let private modern (digits: string) =
        contractions
        + @"|[^\r\n\p{L}\p{N}]?\p{L}+|"
        + digits
        + @"| ?[^\s\p{L}\p{N}]+[\r\n]*|"
        + spaces

    let private threeDigits = modern @"\p{N}{1,3}"
    let private oneDigit = modern @"\p{N}"

    /// Words that a capital letter begins, with the contraction after them where there may be one.
    let private capitals (contraction: string) (digits: string) =
        @"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
        + contraction
        + @"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
        + contraction
        + "|"
        + digits
        + @"| ?[^\s\p{L}\p{N}]+[\r\n/]*|"
        + spaces

    /// Letters of the scripts that have two cases.
    let private cased =
        String.concat "" [
            @"[A-Za-z"
            @"\u00B5\u00C0-\u00D6\u00D8-\u00F6\u00F8-\u01BA\u01BC-\u01BF\u01C4-\u0293\u0295-\u02AF"
            @"\u0370-\u0373\u0376\u0377\u037B-\u037D\u037F\u0386\u0388-\u038A\u038C\u038E-\u03A1"
            @"\u03A3-\u03F5\u03F7-\u0481\u048A-\u052F\u0531-\u0556\u10A0-\u10C5\u13A0-\u13F5"
            @"\u13F8-\u13FD\u1C90-\u1CBA\u1CBD-\u1CBF\u1D00-\u1D2B\u1D6B-\u1D77\u1D79-\u1D9A"
            @"\u1E00-\u1F15\u1F18-\u1F1D\u1F20-\u1F45\u1F48-\u1F4D\u1F50-\u1F57\u1F59\u1F5B\u1F5D"
            @"\u1F5F-\u1F7D\u1F80-\u1FB4\u1FB6-\u1FBC\u1FBE\u1FC2-\u1FC4\u1FC6-\u1FCC\u1FD0-\u1FD3"
            @"\u1FD6-\u1FDB\u1FE0-\u1FEC\u1FF2-\u1FF4\u1FF6-\u1FFC\u2102\u2107\u210A-\u2113\u2115"
            @"\u2119-\u211D\u2124\u2126\u2128\u212A-\u212D\u212F-\u2134\u2139\u213C-\u213F"
            @"\u2145-\u2149\u214E\u2183\u2184\u2C00-\u2C7B\u2C7E-\u2CE4\u2CEB-\u2CEE\u2CF2\u2CF3"
            @"\uA640-\uA66D\uA680-\uA69B\uA722-\uA76F\uA771-\uA787\uA78B-\uA78E\uAB70-\uABBF"
            @"\uFB00-\uFB06\uFB13-\uFB17\uFF21-\uFF3A\uFF41-\uFF5A\x{10400}-\x{1044F}"
            @"\x{104B0}-\x{104D3}\x{104D8}-\x{104FB}\x{10C80}-\x{10CB2}\x{10CC0}-\x{10CF2}"
            @"\x{118A0}-\x{118DF}\x{1E900}-\x{1E943}"
            "]+"
        ]

    let private cjk = @"[\u4E00-\u9FA5\u0800-\u4E00\uAC00-\uD7FF]+"
    let private sentences = @" ?[^(\s|.,!?\u2026\u3002\uFF0C\u3001\u0964\u06D4\u060C)]+"

    let private deepseek3 = [
        @"\p{N}{1,3}"
        @"[\u4E00-\u9FA5\u3040-\u309F\u30A0-\u30FF]+"
        @"[!""#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|"
        + spaces
    ]

    // Names that mean the same, with what they mean.
    let private rules: (string * WordRule) list =
        let gpt2 = PreTokenizer.gpt2
        let llama3 = { plain [ threeDigits ] with IgnoresMerges = true; AddsBos = true }
        let qwen2 = plain [ oneDigit ]

        [
            "llama-bpe llama3 llama-v3 falcon3 falcon-h1 pixtral midm-2.0 lfm2 jina-v5-nano", llama3
            "dbrx smaug-bpe chatglm-bpe glm4", plain [ threeDigits ]
            // llama.cpp leaves form C out; the models were trained with it.
            "qwen2 deepseek-r1-qwen megrez f2llmv2", { qwen2 with IsNormalized = true }
            "kormo stablelm2 hunyuan solar-open grok-2", qwen2
            "qwen35",
            {
                plain [
                    contractions
                    + @"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|"
                    + spaces
                ] with
                    IsNormalized = true
            }
            "smollm starcoder refact command-r codeshell exaone minerva-7b mellum2", plain [ @"\p{N}"; gpt2 ]
            "gpt-2 phi-2 mpt olmo jais trillion granite-docling exaone4 gigachat a.x-4.0 mellum",
            plain [ gpt2 ]
            "modern-bert jina-es jina-de jina-v1-en jina-v2-es jina-v2-de jina-v2-code roberta-bpe",
            plain [ gpt2 ]
            "default", plain [ @"[\p{P}\$\+<=>\^~\|]+"; gpt2; @"\p{N}+"; "[0-9][0-9][0-9]" ]
            "falcon", plain [ @"[\p{P}\$\+<=>\^~\|`]+"; gpt2; "[0-9][0-9][0-9]" ]
            "deepseek-llm",
            plain [
                @"[\r\n]"
                @"\s?" + cased
                @"\s?[!-/:-~\uFF01-\uFF0F\uFF1A-\uFF5E\u2018-\u201F\u3000-\u3002]+"
                @"\s+$"
                cjk
                @"\p{N}+"
            ]
            "deepseek-coder", plain [ @"[\r\n]"; @"\s?\p{L}+"; @"\s?\p{P}+"; cjk; @"\p{N}" ]
            "deepseek-v3 hunyuan-dense joyai-llm", plain deepseek3
            "tekken", { plain [ capitals "" @"\p{N}" ] with IgnoresMerges = true; AddsBos = true }
            "gpt-4o llama4 kanana2 talkie minimax-m2", plain [ capitals (contractions + "?") @"\p{N}{1,3}" ]
            "tiny_aya cohere2moe",
            plain [ @"\d{1,3}(?=(?:\d{3})*\b)"; capitals (contractions + "?") @"\p{N}{1,3}" ]
            "poro-chat bloom gpt3-finnish", plain [ sentences ]
            "viking", plain [ sentences; @"\p{N}" ]
            "superbpe", plain [ @"\p{N}+"; @"(?=(\d{3})+(?!\d))" ]
            "bailingmoe bailingmoe2 llada-moe",
            plain [
                @"'(?:[sSdDmMtT]|[lL][lL]|[vV][eE]|[rR][eE])|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"
            ]
            "seed-coder",
            plain [
                contractions + @"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1}| ?[^\s\p{L}\p{N}\r\n]+|" + spaces
            ]
            "minicpm5", { plain [ @"\p{N}{1,3}"; modern @"\p{N}+" ] with IgnoresMerges = true }
            "laguna", plain [ @"[^\n]+|[\n]+"; oneDigit ]
            "exaone-moe",
            plain [
                contractions
                + @"|[^\r\n\p{L}\p{N}]?(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n]|\s+(?!\S)|\s+"
            ]
        ]

    let private byName =
        Map [
            for names, rule in rules do
                for name in names.Split ' ' -> name, rule
        ]

    /// Every name that `tryFind` knows, in ordinal order.
    let names: string list = List.ofSeq byName.Keys
    /// By `tokenizer.ggml.pre`; None for a name that we do not know, whose words would be guesses.
    let tryFind (name: string) : WordRule option = byName.TryFind name

    /// The function that cuts a text into words.
    let words (rule: WordRule) : Piece -> Piece[] =
        rule.Patterns
        |> List.map (fun pattern ->
            PreTokenizer.split (PreTokenizer.known pattern) SplitBehavior.Isolated false)
        |> PreTokenizer.sequence

    /// A byte-level tokenizer of such words, which has no special tokens yet.
    let parts (rule: WordRule) ids merges : TokenizerParts = {
        Kind = "byte-level BPE"
        Spelling = Spelling.ByteLevel
        DropsFirstSpace = false
        Normalize = fun _ -> if rule.IsNormalized then Nfc.normalize else id
        Words = words rule
        Bpe = {
            Alphabet = TokenizerCore.byteLevel ids
            Merges = merges
            Words = if rule.IgnoresMerges then Some ids else None
            ByteFallback = None
            Unknown = None
            FuseUnknown = false
        }
        Prefix = []
        AddsBos = rule.AddsBos
        Bos = None
        Eos = None
        Templates = []
    }
